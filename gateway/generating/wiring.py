"""The routes of generating, put together."""

import redis.asyncio

from core.clock import Clock
from core.settings import Settings
from gateway import principals
from gateway.forwarding.upstream import Upstream
from gateway.generating.asked import Asking
from gateway.generating.batch_status import BatchStatusEndpoint
from gateway.generating.chat import ChatEndpoint, error_response
from gateway.generating.models import ModelsListing
from gateway.generating.prompt import GenerateEndpoint
from gateway.generating.question import Questions
from gateway.limits import TokenLimits
from gateway.routing import Route
from pipelines.batch_status import StatusBoard


def generating_routes(
    settings: Settings,
    asking: Asking,
    cache: "redis.asyncio.Redis",
    clock: Clock,
    limits: TokenLimits | None = None,
    embeddings: Upstream | None = None,
) -> tuple[Route, ...]:
    """`cache` is where the answering processes tell their status; without `limits` nobody is limited.
    `embeddings` is the server of them, where there is one: its model is listed, too."""
    board = StatusBoard(cache, clock)
    questions = Questions(settings.llm, asking, clock, limits)
    chat = ChatEndpoint(settings.llm, questions, clock)
    return (
        Route(
            "POST",
            "/api/v1/generate",
            principals.ASK,
            GenerateEndpoint(questions).post,
            guarded=True,
            plane="data",
        ),
        Route(
            "POST",
            "/v1/chat/completions",
            principals.ASK,
            chat.post,
            guarded=True,
            refusal=error_response,
            plane="data",
        ),
        *ModelsListing(settings, clock, board=board, embeddings=embeddings).routes(),
        Route("GET", "/api/v1/batch/status", principals.ASK, BatchStatusEndpoint(board).get),
    )
