"""One answer under way for all who asked the same: each hears every piece of it, from the first on."""

import asyncio
from typing import Any

from operators.asking import Emit


class Flight:
    """`waiting` is how many follow it. Holds the pieces of one answer, which `max_tokens` bounds."""

    def __init__(self) -> None:
        self.waiting = 0
        self.degraded = False
        self._pieces: list[bytes] = []
        self._more = asyncio.Event()

    async def emit(self, piece: bytes) -> None:
        """See `operators.asking.Emit`: for the one who makes the answer."""
        self._pieces.append(piece)
        self.wake()

    def wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def follow(self, making: "asyncio.Future[Any]", emit: Emit | None) -> int:
        """Give every piece to `emit`, until `making` is done and all were given; how many there were."""
        given = 0
        while True:
            more = self._more
            if emit is not None and given < len(self._pieces):
                new, given = self._pieces[given:], len(self._pieces)
                await emit(b"".join(new))
            elif making.done():
                return given
            else:
                await more.wait()
