"""`GET /v1/models[/{model}]`, as OpenAI's clients know it: what can be asked for text and for vectors."""

from typing import Any

from core.clock import Clock
from core.errors import Unavailable, UnknownName
from core.settings import Settings
from gateway import principals
from gateway.exchange import Request, Response, json_response
from gateway.forwarding.upstream import Upstream
from gateway.generating.chat import error_response
from gateway.routing import Route
from pipelines.batch_status import StatusBoard


class ModelsListing:
    """`board`: where the processes that answer prompts tell of their models, if there are any. `embeddings`:
    the server of embeddings, if there is one; its model is listed while it is ready."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        board: StatusBoard | None = None,
        embeddings: Upstream | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._board = board
        self._embeddings = embeddings

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/v1/models", principals.ASK, self.all, refusal=error_response),
            Route("GET", "/v1/models/{model}", principals.ASK, self.get, refusal=error_response),
        )

    async def all(self, request: Request) -> Response:
        del request
        return json_response(
            200, {"object": "list", "data": [self._row(name) for name in await self._names()]}
        )

    async def get(self, request: Request) -> Response:
        """Raises UnknownName."""
        wanted, names = request.parameters["model"], await self._names()
        if wanted not in names:
            raise UnknownName("model", wanted[:64], names)
        return json_response(200, self._row(wanted))

    async def _names(self) -> list[str]:
        """Those of the settings where no process told of others."""
        names: list[str] = []
        if self._board is not None:
            names = [model for model, _ in self._settings.llm.addresses]
            try:
                told = await self._board.read()
                names = [server.model for one in told.values() for server in one.servers] or names
            except Unavailable:
                pass
        if self._embeddings is not None and await self._embeddings.ready():
            names.append(self._settings.embeddings.model)
        return list(dict.fromkeys(names))

    def _row(self, name: str) -> dict[str, Any]:
        created = int(self._clock.now().timestamp())
        return {"id": name, "object": "model", "created": created, "owned_by": "millstream"}
