"""From a request to a question, and from a question under way to a response."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from datetime import timedelta
from typing import TypeVar

from core.clock import Clock
from core.settings import Llm
from gateway import strict_json
from gateway.bodies import JSON, content_type
from gateway.caller import caller_of
from gateway.exchange import Request, Response
from gateway.generating.asked import Asking, UnderWay
from gateway.idempotency import key_of_request
from gateway.limits import TokenLimits
from gateway.problems import UnsupportedMediaType
from operators.asking import Answer, Question
from operators.generate import PIPELINE
from operators.generate_request import Generation, Limits

EVENT_STREAM = "text/event-stream"
CLIENT_GONE = 499
_OVERHEAD = 4
"""A prompt is at most so many times longer as JSON, escapes and the other fields included."""

Result = TypeVar("Result")
Parse = Callable[[bytes, Limits], Generation]
Parts = Callable[[UnderWay], AsyncGenerator[bytes, None]]


class Questions:
    """Asks what a request says, and waits for the answer."""

    def __init__(
        self, settings: Llm, asking: Asking, clock: Clock, tokens: TokenLimits | None = None
    ) -> None:
        self.limits = Limits(settings.max_prompt_bytes, settings.max_tokens)
        self._wait = timedelta(seconds=settings.wait_s)
        self._asking = asking
        self._clock = clock
        self._tokens = tokens

    async def read(self, request: Request, parse: Parse) -> tuple[Generation, bytes]:
        """The body, checked, and counted. Raises UnsupportedMediaType, TooLarge, Malformed, Rejected,
        OverLimit."""
        if content_type(request) != JSON:
            raise UnsupportedMediaType("several questions in one body", mend=f"send one, as {JSON}")
        body = await request.body(self.limits.prompt_bytes * _OVERHEAD + 65_536)
        if not strict_json.is_plainly_strict(body):
            strict_json.check(body)
        asked = parse(body, self.limits)
        if self._tokens is not None:
            request.note(await self._tokens.admit(request.principal.tenant, asked.completion.max_tokens))
        return asked, body

    async def ask(self, request: Request, body: bytes, *, streamed: bool) -> UnderWay:
        """Under the id that the client gave (`Idempotency-Key`), else under that of the request."""
        key = key_of_request(request)
        question = Question(
            tenant=request.principal.tenant,
            id=key or request.request_id,
            pipeline=PIPELINE,
            body=body,
            deadline_at=self._clock.now() + self._wait,
            streamed=streamed,
        )
        return await self._asking.ask(
            question,
            credential=request.principal.credential,
            traceparent=request.traceparent,
            caller=caller_of(request),
        )


async def whole(under_way: UnderWay, request: Request) -> Answer | None:
    """The answer; None when the client has left, and the question is cancelled then."""
    async with under_way:
        return await _unless_gone(under_way.end(), request)


async def streamed(under_way: UnderWay, request: Request, parts: Parts) -> Response:
    """The answer in parts, once it has begun; what fails before is raised, and no stream."""
    try:
        begun = await _unless_gone(_ready(under_way), request)
    except BaseException:
        await under_way.__aexit__(None, None, None)
        raise
    if begun is None:
        await under_way.__aexit__(None, None, None)
        return Response(CLIENT_GONE)
    headers = [("x-accel-buffering", "no")]
    closing = _closing(under_way, parts)
    await anext(closing)
    return Response(200, content_type=EVENT_STREAM, headers=headers, parts=closing)


async def _closing(under_way: UnderWay, parts: Parts) -> AsyncGenerator[bytes, None]:
    """The first part is empty and for the caller: a generator that was begun leaves the question when it is
    closed or forgotten, one that was not would never."""
    async with under_way:
        yield b""
        async for part in parts(under_way):
            yield part


async def _ready(under_way: UnderWay) -> bool:
    await under_way.ready()
    return True


async def _unless_gone(wait: Coroutine[None, None, Result], request: Request) -> Result | None:
    waiting = asyncio.ensure_future(wait)
    gone = asyncio.ensure_future(request.gone())
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        gone.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)
