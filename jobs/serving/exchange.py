"""One request and its answer, as Granian's RSGI carries them."""

import asyncio
from typing import Any, Protocol

from core.errors import TooLarge
from jobs.serving.answers import Headers

BODY_READ_S = 30.0


class Scope(Protocol):
    """What Granian tells of a request."""

    proto: str
    method: str
    path: str
    headers: Any


class Exchange(Protocol):
    """What Granian takes the answer with."""

    async def __call__(self) -> bytes: ...
    def __aiter__(self) -> Any: ...
    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None: ...


async def body_of(scope: Scope, exchange: Exchange, limit: int) -> bytes:
    """The whole body. Raises TooLarge above `limit` bytes, without reading on."""
    length = scope.headers.get("content-length")
    async with asyncio.timeout(BODY_READ_S):
        if length is not None and length.isdigit():
            if len(length) > 15 or int(length) > limit:
                raise TooLarge(f"a body of {length[:20]} bytes", mend=f"send at most {limit} bytes")
            return await exchange()
        found, size = [], 0
        async for part in exchange:
            size += len(part)
            if size > limit:
                raise TooLarge(f"a body of more than {limit} bytes")
            found.append(part)
        return b"".join(found)
