"""What connections of every protocol have in common: whether the client takes what it is sent."""

import asyncio


class Flow(asyncio.Protocol):
    """Belongs to the event loop. `lost` is set once the connection is."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self.lost = False
        self._loop = asyncio.get_running_loop()
        self._full: asyncio.Future[None] | None = None

    @property
    def full(self) -> bool:
        """Whether what was written waits for the client, and `room` would."""
        return self._full is not None

    async def room(self) -> None:
        """Until what was written has gone so far that more can be, or the connection is lost."""
        if self._full is not None and not self.lost:
            await asyncio.shield(self._full)  # others may wait for it when this one gives up

    @property
    def over(self) -> bool:
        """Whether nothing can be read or written any more."""
        return self.lost or self._transport.is_closing()

    def abort(self) -> None:
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.resume_writing()

    def eof_received(self) -> None:
        """Who sends no more is gone."""

    def pause_writing(self) -> None:
        self._full = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
        self._full = None
