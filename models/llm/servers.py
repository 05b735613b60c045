"""The pool of servers that the settings name."""

from collections.abc import Callable

from core.clock import Clock
from core.settings import Llm
from models.llm.client import HttpLanguageServer
from models.llm.connections import Pooling
from operators.generate_ports import CallBreaker
from operators.server_pool import Member, ServerPool


class Unbroken:
    """A breaker that never opens, where the pool's own probes are enough."""

    async def admit(self) -> object:
        return None

    async def succeeded(self, ticket: object) -> None: ...

    async def failed(self, ticket: object) -> None: ...

    async def abandoned(self, ticket: object) -> None: ...


def server_pool(settings: Llm, clock: Clock, breaker: Callable[[str], CallBreaker]) -> ServerPool:
    """Servers in the order of `settings.addresses`; `breaker` makes one for a server's name."""
    pooling = Pooling(
        connections=settings.connections,
        idle_s=settings.idle_s,
        wait_s=settings.connection_wait_s,
        silence_s=settings.silence_s,
    )
    members = []
    for number, (model, url) in enumerate(settings.addresses, start=1):
        name = f"llm-{number}"
        server = HttpLanguageServer(
            name, model, url, pooling=pooling, floor=settings.tokens_per_s, api_key=settings.api_key
        )
        members.append(Member(server, slots=settings.slots, breaker=breaker(name)))
    return ServerPool(members, queue=settings.queue, clock=clock)
