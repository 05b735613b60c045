"""One LLM server over HTTP, by the OpenAI-compatible API: llama.cpp, vLLM, or a provider.

The chat template is the served model's own and applied by the server (`/v1/chat/completions`), so that a
model and its template can only be exchanged together. Whatever the server does wrong becomes ServerFailed.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

import aiohttp
import msgspec

from core.errors import InvalidInput, Rejected, ServerFailed
from core.telemetry.metrics import counter
from models.llm.connections import Call, Connections, Pooling
from models.llm.event_stream import EventStream, TooLongLine
from operators.generate_ports import Completion, Delta, Health, Message, Usage

CHAT = "/v1/chat/completions"
MORE_THAN_ASKED = 64
"""Parts beyond `max_tokens` after which a server that does not stop is left."""
PROBE_TOKENS = 8
PROBE_S = 10.0
COUNT_S = 0.25
END_S = 0.05
STALE = 3
"""Kept connections that are found closed before a call is said to be lost."""
_PROBE = Completion((Message("user", "Count from one to ten."),), max_tokens=PROBE_TOKENS, temperature=0.0)
_ERROR_BYTES = 64 * 1024
_COUNT_BYTES = 1024 * 1024
_DONE = b"[DONE]"
_FAILURES = counter("llm_server_failures_total", "Calls that an LLM server failed", ["server", "kind"])
_encode = msgspec.json.Encoder().encode


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Counted(msgspec.Struct):
    tokens: list[int] | None = None
    count: int | None = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_count = msgspec.json.Decoder(_Counted).decode


class HttpLanguageServer:
    """See `operators.generate_ports.LanguageServer`. `floor`: tokens/s for a health score of 1."""

    def __init__(
        self,
        name: str,
        model: str,
        base_url: str,
        *,
        pooling: Pooling | None = None,
        floor: float = 9.0,
        api_key: str | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.pooling = pooling or Pooling()
        self.connections = Connections(name, base_url, self.pooling, api_key)
        self._where = f"LLM server {name} at {base_url}"
        self._floor = floor
        self._counts = True
        self._keeps = False

    async def complete(self, completion: Completion) -> AsyncGenerator[Delta, None]:
        body = _encode(_request(self.model, completion))
        try:
            async with await self._sent(body) as response:
                try:
                    await self._refuse_unless_events(response)
                    async for delta in self._deltas(response, completion.max_tokens + MORE_THAN_ASKED):
                        yield delta
                except BaseException:
                    response.close()  # tells the server, which would go on to the end otherwise
                    raise
        except ServerFailed as error:
            _FAILURES.labels(self.name, error.kind).inc()
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = self._failure(error)
            _FAILURES.labels(self.name, failure.kind).inc()
            raise failure from error

    async def count_tokens(self, text: str) -> int | None:
        if not self._counts:
            return None
        body = _encode({"content": text, "prompt": text, "model": self.model})
        try:
            async with asyncio.timeout(COUNT_S), self.connections.post("/tokenize", body) as response:
                if response.status in (404, 405, 501):
                    self._counts = False
                    return None
                found = _decode_count(await _bounded(response, _COUNT_BYTES))
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
            return None
        return found.count if found.count is not None else len(found.tokens or ()) or None

    async def probe(self, heard: Callable[[int], None] | None = None) -> Health:
        said, begun, first, parts, tokens = "", time.monotonic(), 0.0, 0, 0
        try:
            async with asyncio.timeout(PROBE_S), aclosing(self.complete(_PROBE)) as deltas:
                async for delta in deltas:
                    if delta.text:
                        first = first or time.monotonic()
                        parts += 1
                        if heard is not None:
                            heard(100 * min(parts, PROBE_TOKENS) // PROBE_TOKENS)
                    said += delta.text
                    tokens = delta.usage.completion_tokens if delta.usage else tokens
        except (ServerFailed, InvalidInput) as error:
            return Health(0.0, reason=error.what)
        except TimeoutError:
            return Health(0.0, reason=f"no {PROBE_TOKENS} tokens in {PROBE_S:g} s")
        tokens = tokens or parts  # not every server tells its usage
        if not said.strip() or tokens < PROBE_TOKENS // 2:
            return Health(0.0, reason=f"{tokens} tokens, {len(said.strip())} characters")
        rate = (tokens - 1) / max(time.monotonic() - first, 1e-9) if tokens > 1 else 1 / (first - begun)
        if rate >= self._floor:
            return Health(1.0, rate)
        return Health(rate / self._floor, rate, f"{rate:.1f} tokens/s, the floor is {self._floor:g}")

    async def close(self) -> None:
        await self.connections.close()

    async def _sent(self, body: bytes) -> aiohttp.ClientResponse:
        """The response to the request. llama.cpp promises to keep the connection and closes it after a
        stream, so that the next request may be lost: there, and until the server is known, it is not kept.

        Any server may close a kept connection while a request is on its way. Where nothing was answered on
        one that had served before, the request is sent again."""
        stale = 0
        while True:
            call = Call()
            try:
                response = await self.connections.post(CHAT, body, keep=self._keeps, call=call)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not call.reused or stale == STALE:
                    raise
                stale += 1
            else:
                self._keeps = not response.headers.get("server", "").startswith("llama.cpp")
                return response

    async def _deltas(self, response: aiohttp.ClientResponse, most: int) -> AsyncGenerator[Delta, None]:
        events = EventStream()
        finished = False
        parts = 0
        async for chunk in response.content.iter_any():
            begun = time.perf_counter()
            try:
                payloads = events.feed(chunk)
            except TooLongLine:
                raise self._garbage("a line of more than a megabyte") from None
            for payload in payloads:
                if payload == _DONE:
                    if not finished:
                        raise self._lost("it ended its answer without saying why")
                    await _to_the_end(response)
                    return
                text, finish, usage = self._parsed(payload)
                if text or finish or usage:
                    finished = finished or finish is not None
                    parts += bool(text)
                    now = time.perf_counter()
                    yield Delta(text, finish, usage, now - begun)
                    begun = time.perf_counter()
            if parts > most:
                raise self._garbage(f"it does not stop at max_tokens: {parts} parts of text")
        if not finished:
            raise self._lost("the stream ended in the middle of an answer")

    def _parsed(self, payload: bytes) -> tuple[str, str | None, Usage | None]:
        try:
            chunk = _decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise self._garbage(f"no chunk of an answer: {payload[:80]!r}") from None
        if chunk.error is not None:
            raise ServerFailed("failed", f"it reports {str(chunk.error)[:200]}", where=self._where)
        usage = None
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            cached = details.cached_tokens if details else None
            usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens, cached or 0)
        if not chunk.choices:
            return "", None, usage
        choice = chunk.choices[0]
        return choice.delta.content or "", choice.finish_reason, usage

    async def _refuse_unless_events(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 200:
            if response.content_type != "text/event-stream":
                raise self._garbage(f"content type {response.content_type[:60]!r} instead of events")
            return
        text = (await _bounded(response, _ERROR_BYTES)).decode("utf-8", "replace")
        said = f"HTTP {response.status}: {_message(text)}"
        if response.status in (400, 413, 422):
            if "context" in text and ("exceed" in text or "maximum" in text):
                reason = "is too long for the model's context, together with max_tokens"
                raise Rejected("the prompt is too long", fields={"/prompt": reason}, where=said)
            raise InvalidInput(f"the model server refuses the request: {_message(text)}")
        kind = "busy" if response.status in (429, 503) else "refused" if response.status < 500 else "failed"
        raise ServerFailed(kind, said, where=self._where, retry_after_s=_retry_after(response))

    def _failure(self, error: BaseException) -> ServerFailed:
        if isinstance(error, aiohttp.SocketTimeoutError):
            what = f"nothing came for {self.pooling.silence_s:g} s"
            return ServerFailed("silent", what, where=self._where)
        unwritten = _unwritten(error)
        if unwritten or isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return ServerFailed("unreachable", f"no connection: {error}"[:200], where=self._where)
        if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
            return self._garbage(f"no HTTP answer: {error}"[:200])
        return self._lost(f"{type(error).__name__}: {error}"[:200])

    def _garbage(self, what: str) -> ServerFailed:
        return ServerFailed("garbage", what, where=self._where)

    def _lost(self, what: str) -> ServerFailed:
        return ServerFailed("lost", what, where=self._where)


def _unwritten(error: BaseException) -> bool:
    """Whether the connection was closed before the request was written: the server has not read it."""
    return isinstance(error, aiohttp.ClientOSError) and "Can not write request body" in str(error)


async def _bounded(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, or its first `most` bytes, about."""
    body = b""
    while len(body) < most and (chunk := await response.content.read(most)):
        body += chunk
    return body


async def _to_the_end(response: aiohttp.ClientResponse) -> None:
    """Only a connection that was read to its end is used again; one that has none soon is closed."""
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(END_S):
            while await response.content.readany():
                pass


def _request(model: str, asked: Completion) -> dict[str, Any]:
    messages = list(asked.messages)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": asked.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if asked.open or asked.said:
        begun = messages.pop().content if asked.open else ""
        messages.append(Message("assistant", begun + asked.said))
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"):
        if (value := getattr(asked, name)) is not None:
            body[name] = value
    if asked.stop:
        body["stop"] = list(asked.stop)
    return body | {"messages": messages}


def _message(text: str) -> str:
    try:
        value = msgspec.json.decode(text)
        error = value.get("error", value)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
    except (msgspec.MsgspecError, AttributeError):
        return text[:300]


def _retry_after(response: aiohttp.ClientResponse) -> float:
    given = response.headers.get("retry-after", "")
    return float(min(int(given), 60)) if given.isdigit() and len(given) < 6 else 1.0
