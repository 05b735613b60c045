"""A server that requests are forwarded to, so many at once, and no longer than it may take.

What it answers to a wrong request (4xx) is handed on. Whatever else goes wrong is told as what it is for the
caller: too much to do, not in time, or a server that failed, which the breaker before the route counts.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from core.errors import DeadlineExceeded, QueueFull, ServerFailed

CONNECT_S = 2.0
GRACE_S = 2.0
"""A server that says by itself that it was not in time is waited for so much longer."""
MOST_ANSWER = 64 * 1024 * 1024
READY_FOR_S = 1.0
_NOT_THE_CALLERS = frozenset({401, 403, 407, 408, 429})


@dataclass(frozen=True)
class Forwarded:
    """What a server answered: 200, or what is wrong with the request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Upstream:
    """One server. `name` is what it is called in errors, `ready` the path that is 200 while it can be asked.
    Belongs to one event loop; close it."""

    def __init__(
        self,
        name: str,
        address: str,
        *,
        timeout_s: float,
        connections: int,
        api_key: str | None = None,
        ready: str = "/ready",
    ) -> None:
        self._name = name
        self._ready_at = ready
        self._timeout_s = timeout_s
        self._free = connections
        self._client = httpx.AsyncClient(
            base_url=address,
            timeout=httpx.Timeout(timeout_s + GRACE_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=5.0),
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            trust_env=False,
        )
        self._asked: asyncio.Task[bool] | None = None
        self._known_until = 0.0
        self._ready = False

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Forwarded:
        """Raises QueueFull, DeadlineExceeded, ServerFailed. Send nothing that must not be done twice: where a
        connection ends, as those of a server do that is replaced, it is sent again, once."""
        with self._place():
            try:
                async with asyncio.timeout(self._timeout_s + GRACE_S):
                    try:
                        return await self._sent(method, path, body, headers)
                    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                        return await self._sent(method, path, body, headers)
            except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
                raise DeadlineExceeded(f"{self._name} did not answer within {self._timeout_s:g} s") from None
            except (httpx.ConnectError, httpx.ConnectTimeout):
                raise ServerFailed("unreachable", f"{self._name} is not there") from None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise ServerFailed("lost", f"{self._name}: {type(error).__name__}") from None

    async def ready(self) -> bool:
        """Whether it says so, asked once a second at most, however often this is."""
        if time.monotonic() < self._known_until:
            return self._ready
        if self._asked is None or self._asked.done():
            self._asked = asyncio.ensure_future(self._ask_ready())
        return await asyncio.shield(self._asked)

    async def close(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
        await self._client.aclose()

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._free:
            raise QueueFull(f"as many requests are with {self._name} already as may be")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def _ask_ready(self) -> bool:
        try:
            answer = await self._client.get(self._ready_at, timeout=CONNECT_S)
            self._ready = answer.status_code == httpx.codes.OK
        except httpx.HTTPError:
            self._ready = False
        self._known_until = time.monotonic() + READY_FOR_S
        return self._ready

    async def _sent(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None
    ) -> Forwarded:
        async with self._client.stream(method, path, content=body, headers=headers) as answer:
            return self._judged(answer, await self._read(answer))

    def _judged(self, answer: httpx.Response, body: bytes) -> Forwarded:
        status = answer.status_code
        if status == httpx.codes.OK or (400 <= status < 500 and status not in _NOT_THE_CALLERS):
            return Forwarded(status, answer.headers, body)
        if status in (429, 503):
            after = answer.headers.get("retry-after", "")
            raise QueueFull(
                f"{self._name} takes no more now", retry_after_s=float(after) if after.isdigit() else 1.0
            )
        if status in (408, 504):
            raise DeadlineExceeded(f"{self._name} was not in time")
        raise ServerFailed("failed", f"{self._name} answered {status}")

    async def _read(self, answer: httpx.Response) -> bytes:
        found = bytearray()
        async for part in answer.aiter_bytes():
            found += part
            if len(found) > MOST_ANSWER:
                raise ServerFailed("garbage", f"{self._name} answers more than {MOST_ANSWER} bytes")
        return bytes(found)
