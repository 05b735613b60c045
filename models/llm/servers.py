"""The pool of servers that the settings name."""

from collections.abc import Callable
from dataclasses import dataclass

from core.clock import Clock
from core.errors import DeclarationError
from core.settings import Llm
from models.llm.client import HttpLanguageServer
from models.llm.connections import Pooling
from operators.generate_ports import CallBreaker
from operators.server_pool import Member, ServerPool


@dataclass(frozen=True)
class Server:
    """One server of the settings, under the name that it has in this process."""

    name: str
    model: str
    url: str


class Unbroken:
    """A breaker that never opens, where the pool's own probes are enough."""

    async def admit(self) -> object:
        return None

    async def succeeded(self, ticket: object) -> None: ...

    async def failed(self, ticket: object) -> None: ...

    async def abandoned(self, ticket: object) -> None: ...


def server_pool(settings: Llm, clock: Clock, breaker: Callable[[Server], CallBreaker]) -> ServerPool:
    """Servers in the order of `settings.addresses`; `breaker` makes one for a server.

    Raises DeclarationError where the slots need more connections than there may be: a question would wait
    for one, and the server would be taken for dead. Calls that cost money keep no connection: one that is
    closed by the server meanwhile leaves open whether it was paid for.
    """
    if settings.connections <= settings.slots:
        raise DeclarationError(
            f"{settings.connections} connections for {settings.slots} slots of an LLM server",
            where="MILLSTREAM_LLM__CONNECTIONS",
            mend="give more connections than slots: probes and counts need some, too",
        )
    pooling = Pooling(
        connections=settings.connections,
        idle_s=settings.idle_s,
        wait_s=settings.connection_wait_s,
        silence_s=settings.silence_s,
        kept=not settings.paid,
    )
    members = []
    for number, (model, url) in enumerate(settings.addresses, start=1):
        name = f"llm-{number}"
        server = HttpLanguageServer(
            name, model, url, pooling=pooling, floor=settings.tokens_per_s, api_key=settings.api_key
        )
        members.append(
            Member(server, slots=settings.slots, breaker=breaker(Server(name, model, url)), clock=clock)
        )
    return ServerPool(members, queue=settings.queue, clock=clock)
