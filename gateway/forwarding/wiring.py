"""The routes whose requests are forwarded, put together."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from core.clock import Clock
from core.settings import Settings
from gateway import principals
from gateway.forwarding.embeddings import PATH, EmbeddingsEndpoint
from gateway.forwarding.inference import InferenceEndpoint
from gateway.forwarding.upstream import Upstream
from gateway.generating.chat import error_response
from gateway.generating.models import ModelsListing
from gateway.limits import TokenLimits
from gateway.routing import Route


@dataclass(frozen=True)
class Forward:
    """What is there to forward to. direct: the process that serves models; embeddings: the one that makes
    vectors."""

    direct: bool = False
    embeddings: bool = False


NOTHING = Forward()


@dataclass(frozen=True)
class Forwarding:
    """`embeddings` is the server of them, where there is one."""

    routes: tuple[Route, ...]
    embeddings: Upstream | None = None


def forwarding(
    settings: Settings,
    forward: Forward,
    exits: AsyncExitStack,
    clock: Clock,
    tokens: TokenLimits | None = None,
    *,
    llm: bool = False,
) -> Forwarding:
    """With `llm` the models are listed by the routes of generating."""
    routes: list[Route] = []
    if forward.direct:
        serving = settings.serving
        direct = Upstream(
            "direct serving", serving.address, timeout_s=serving.timeout_s, connections=serving.connections
        )
        exits.push_async_callback(direct.close)
        routes += InferenceEndpoint(serving, direct).routes()
    if not forward.embeddings:
        return Forwarding(tuple(routes))
    own = settings.embeddings
    server = Upstream(
        "the server of embeddings",
        own.address,
        timeout_s=own.timeout_s,
        connections=own.connections,
        api_key=own.api_key,
        ready="/v1/models" if own.url else "/ready",
    )
    exits.push_async_callback(server.close)
    endpoint = EmbeddingsEndpoint(own, server, tokens)
    routes.append(
        Route("POST", PATH, principals.ASK, endpoint.post, guarded=True, refusal=error_response, plane="data")
    )
    if not llm:
        routes += ModelsListing(settings, clock, embeddings=server).routes()
    return Forwarding(tuple(routes), server)
