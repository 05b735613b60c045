"""An LLM server that does what it is told to: answers well, or fails in one of the ways that servers do.

Its text is `w0 w1 w2 ...`, one word a token, so that what was lost, doubled or mixed up shows.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

CONTEXT = 2048
AFTER = 3
"""Words that come before a failure in mid-stream."""

MID_STREAM = (
    "garbage_json", "not_utf8", "giant_line", "hang", "reset", "close", "error_event", "wrong_shape",
)  # fmt: skip
AT_ONCE = (
    "html", "json_body", "hang_at_once", "reset_at_once", "no_http", "status_500", "status_429", "status_503",
    "status_401", "status_302", "empty",
)  # fmt: skip
NEVER_STOPS = "never_stops"


@dataclass
class FakeServer:
    """`script`: what the next calls do, in order; those after it go well. `open` calls are under way now."""

    url: str = ""
    model: str = "fake"
    script: list[str] = field(default_factory=list)
    seconds_per_token: float = 0.0
    seen: list[dict[str, object]] = field(default_factory=list)
    counted: int = 0
    open: int = 0
    most_open: int = 0
    left: int = 0
    continues: bool = True

    async def busy(self) -> int:
        return self.open

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.seen.append(asked)
        behaviour = self.script.pop(0) if self.script else "well"
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            refused = await self._at_once(request, behaviour, asked)
            return refused if refused is not None else await self._stream(request, behaviour, asked)
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise
        finally:
            self.open -= 1

    async def tokenize(self, request: web.Request) -> web.Response:
        self.counted += 1
        text = (await request.json())["content"]
        return web.json_response({"tokens": list(range(len(text.split())))})

    async def _at_once(
        self, request: web.Request, behaviour: str, asked: dict[str, object]
    ) -> web.StreamResponse | None:
        if behaviour.startswith("status_"):
            status = int(behaviour.removeprefix("status_"))
            return web.json_response({"error": {"message": "told to"}}, status=status)
        if behaviour == "html":
            return web.Response(text="<html>it works</html>", content_type="text/html")
        if behaviour == "json_body":
            return web.json_response({"choices": [{"message": {"content": "whole"}}]})
        if behaviour == "empty":
            return web.Response(content_type="text/event-stream")
        if behaviour == "error_in_pieces":
            response = web.StreamResponse(status=400)
            await response.prepare(request)
            for part in (b'{"error": {"message": "request ex', b"ceeds the available conte", b'xt size"}}'):
                await response.write(part)
                await asyncio.sleep(0.02)
            return response
        if behaviour == "hang_at_once":
            await asyncio.sleep(3600)
        if behaviour in ("reset_at_once", "no_http"):
            assert request.transport is not None
            if behaviour == "no_http":
                request.transport.write(b"\x00\x01 what is this\r\n\r\n")
                await asyncio.sleep(0.05)
            request.transport.abort()
            await asyncio.sleep(3600)
        messages = asked["messages"]
        assert isinstance(messages, list)
        if sum(len(message["content"].split()) for message in messages) > CONTEXT:
            said = f"request exceeds the available context size ({CONTEXT} tokens)"
            return web.json_response({"error": {"code": 400, "message": said}}, status=400)
        if messages[-1]["role"] == "assistant" and not self.continues:
            return web.json_response({"error": {"message": "unknown: continue_final_message"}}, status=400)
        return None

    async def _stream(
        self, request: web.Request, behaviour: str, asked: dict[str, object]
    ) -> web.StreamResponse:
        messages, tokens = asked["messages"], asked["max_tokens"]
        assert isinstance(messages, list)
        assert isinstance(tokens, int)
        before = len(messages[-1]["content"].split()) if messages[-1]["role"] == "assistant" else 0
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        number = 0
        while number < tokens or behaviour == NEVER_STOPS:
            if number == AFTER and behaviour in MID_STREAM:
                await self._fail(request, response, behaviour)
                return response
            word = f"w{before + number}"
            text = word if before + number == 0 else f" {word}"
            await response.write(_event({"choices": [{"delta": {"content": text}}]}))
            number += 1
            await asyncio.sleep(self.seconds_per_token)
        await response.write(_event({"choices": [{"delta": {}, "finish_reason": "length"}]}))
        usage = {"prompt_tokens": len(str(messages)), "completion_tokens": number}
        if behaviour != "no_usage":
            await response.write(_event({"choices": [], "usage": usage}))
        if behaviour == "reset_at_the_end":
            assert request.transport is not None
            request.transport.abort()
            return response
        if behaviour != "no_done":
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _fail(self, request: web.Request, response: web.StreamResponse, behaviour: str) -> None:
        assert request.transport is not None
        if behaviour == "hang":
            await asyncio.sleep(3600)
        elif behaviour == "reset":
            request.transport.abort()
            await asyncio.sleep(3600)
        elif behaviour != "close":
            await response.write(
                {
                    "garbage_json": b'data: {"choices": [{"delta"\n\n',
                    "not_utf8": b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n',
                    "giant_line": b"data: " + b"x" * (3 << 20),
                    "error_event": _event({"error": {"code": 500, "message": "out of memory"}}),
                    "wrong_shape": _event({"choices": "none", "usage": 7}),
                }[behaviour]
            )


def _event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@asynccontextmanager
async def fake_server(model: str = "fake") -> AsyncIterator[FakeServer]:
    """A fake on a free port of loopback."""
    fake = FakeServer(model=model)
    application = web.Application()
    application.router.add_post("/v1/chat/completions", fake.chat)
    application.router.add_post("/tokenize", fake.tokenize)
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1, handle_signals=False
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await runner.cleanup()
