"""The blacklist: sessions that were ended before their access tokens expire, followed from Redis.

In memory, and never more than `FOLLOWED_S` behind what any gateway has ended. While Redis is away the last
known list goes on for the setting `people.grace_s`; then, and before it was read once, nobody can say whether
a token is good: 503.
"""

import asyncio

from core.clock import Clock
from core.errors import Unavailable
from core.people_settings import People
from gateway.people.sessions import TOLD_AT_ONCE, Sessions

FOLLOWED_S = 0.4


class Revoked:
    """Belongs to one event loop."""

    def __init__(self, sessions: Sessions, settings: People, clock: Clock) -> None:
        self._sessions = sessions
        self._grace_s = settings.grace_s
        self._kept_s = settings.access_s + 2 * settings.skew_s + 60
        self._clock = clock
        self._ended: dict[str, float] = {}
        self._position = "0"
        self._confirmed: float | None = None
        self._reading: asyncio.Task[bool] | None = None

    def __contains__(self, session: object) -> bool:
        return session in self._ended

    def add(self, session: str) -> None:
        """Ended by this gateway: known here before it comes back."""
        self._ended[session] = self._clock.monotonic() + self._kept_s

    @property
    def known(self) -> bool:
        """Whether it was confirmed within the grace."""
        return self._confirmed is not None and self._age() <= self._grace_s

    async def require(self) -> None:
        """Read it where it is older than it should be. Raises Unavailable where that cannot be and the grace
        is over."""
        if self._confirmed is not None and self._age() <= 2 * FOLLOWED_S:
            return
        try:
            await self.follow()
        except Unavailable as away:
            if not self.known:
                raise Unavailable(
                    "nobody can say now which sessions were ended", code="keys_unavailable", where="Redis"
                ) from away

    async def follow(self) -> bool:
        """Read what was ended since the last time; whether something was. Raises Unavailable."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read(), name="revoked-sessions")
            self._reading.add_done_callback(self._read_ended)
        return await asyncio.shield(self._reading)

    def _read_ended(self, task: "asyncio.Task[bool]") -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # whoever waited was told

    async def _read(self) -> bool:
        """Until there is no more of it, oldest first."""
        something = False
        while True:
            begun = self._clock.monotonic()
            told, self._position = await self._sessions.revoked_since(self._position)
            for _, session in told:
                self._ended[session] = begun + self._kept_s
            something = something or bool(told)
            if len(told) < TOLD_AT_ONCE:
                break
        self._confirmed = begun
        while self._ended and next(iter(self._ended.values())) < begun:
            del self._ended[next(iter(self._ended))]
        return something

    def _age(self) -> float:
        return self._clock.monotonic() - (self._confirmed or 0.0)
