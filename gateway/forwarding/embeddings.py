"""`POST /v1/embeddings`, as OpenAI's clients know it, answered by a server of embeddings.

What can be seen to be wrong is refused here, in OpenAI's shape; how many tokens a text has, only the model
knows. A text counts as its bytes, and no more than a text may have, against the tenant's limit of tokens.
"""

import msgspec

from core.errors import UnknownName
from core.settings import Embeddings
from gateway import strict_json
from gateway.bodies import JSON, content_type
from gateway.caller import http_headers
from gateway.exchange import Request, Response
from gateway.forwarding.upstream import Upstream
from gateway.limits import TokenLimits
from gateway.problems import UnsupportedMediaType
from operators.embed_request import Bounds, parse

PATH = "/v1/embeddings"


class EmbeddingsEndpoint:
    def __init__(self, settings: Embeddings, upstream: Upstream, tokens: TokenLimits | None = None) -> None:
        self._settings = settings
        self._bounds = Bounds(settings.inputs, settings.input_tokens)
        self._upstream = upstream
        self._tokens = tokens

    async def post(self, request: Request) -> Response:
        """Raises UnsupportedMediaType, TooLarge, Malformed, Rejected, UnknownName, OverLimit, and as
        `Upstream`."""
        if content_type(request) != JSON:
            raise UnsupportedMediaType("several requests in one body", mend=f"send one, as {JSON}")
        body = await request.body(self._settings.max_body_bytes)
        if not strict_json.is_plainly_strict(body):
            strict_json.check(body)
        asked = parse(body, self._bounds)
        if asked.model not in (None, self._settings.model):
            raise UnknownName("model", str(asked.model)[:64], [self._settings.model])
        if self._tokens is not None:
            most = asked.most_tokens(self._bounds)
            request.note(await self._tokens.admit(request.principal.tenant, most))
        wanted = {
            "input": asked.texts,
            "model": self._settings.model,
            "encoding_format": "base64" if asked.base64 else "float",
        }
        # a server of somebody else's learns nothing of who asks
        known = http_headers(request) if self._settings.url is None else {"x-request-id": request.request_id}
        headers = known | {"content-type": JSON}
        answer = await self._upstream.send("POST", PATH, msgspec.json.encode(wanted), headers)
        return Response(answer.status, answer.body)
