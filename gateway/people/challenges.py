"""Challenges of the second factor, in Redis: each is answered once, and a user's wrong codes are counted.

A wrong code counts against the user, not the challenge: who logs in again has no more of them. The last wrong
one that is allowed begins a pause, in which no challenge is given and none is taken.
"""

import hashlib
import math
import secrets
from dataclasses import dataclass

import redis.asyncio

from core.clock import Clock
from core.errors import RateLimited
from core.people_settings import People
from pipelines.on_redis.round_trips import RoundTrips

CHALLENGE, WRONG, PAUSE = "millstream:challenge:", "millstream:wrong-codes:", "millstream:pause:"

_WRONG = """
local wrong, pause = KEYS[1], KEYS[2]
local most, lasts = tonumber(ARGV[1]), tonumber(ARGV[2])
local count = redis.call('INCR', wrong)
if count == 1 then redis.call('PEXPIRE', wrong, lasts) end
if count >= most then
  redis.call('SET', pause, '1', 'PX', lasts)
  redis.call('DEL', wrong)
end
return math.max(0, most - count)
"""


class Paused(RateLimited):
    """Too many wrong codes; after the pause the same is let through."""

    default_code = "second_factor_paused"

    def __init__(self, wait_s: float) -> None:
        wait = max(1, math.ceil(wait_s))
        super().__init__("too many wrong codes", mend=f"log in again in {wait} s", retry_after_s=wait)


@dataclass(frozen=True)
class Challenge:
    """`text` goes to whoever answers it."""

    text: str
    lasts_s: float


class Challenges:
    """Belongs to one event loop. Every method raises Unavailable while Redis is away."""

    def __init__(self, client: "redis.asyncio.Redis", settings: People, clock: Clock) -> None:
        self._redis = RoundTrips(client, where="challenges", code="sessions_unavailable", clock=clock)
        self._settings = settings

    async def give(self, user: str) -> Challenge:
        """A challenge for the user. Raises Paused."""
        await self.require_no_pause(user)
        text = secrets.token_urlsafe(32)
        lasts_ms = int(self._settings.challenge_s * 1000)
        await self._redis.ask([("SET", _key(text), user, "PX", lasts_ms)])
        return Challenge(text, self._settings.challenge_s)

    async def take(self, text: str) -> str | None:
        """The user whose challenge this was, once; None for one that is none, or was."""
        (user,) = await self._redis.ask([("GETDEL", _key(text))])
        return user.decode() if user is not None else None

    async def require_no_pause(self, user: str) -> None:
        """Raises Paused."""
        (left_ms,) = await self._redis.ask([("PTTL", PAUSE + user)])
        if int(left_ms) > 0:
            raise Paused(int(left_ms) / 1e3)

    async def wrong(self, user: str) -> int:
        """Count a wrong code; how many more are allowed."""
        lasts_ms = int(self._settings.pause_s * 1000)
        keys = (WRONG + user, PAUSE + user)
        (left,) = await self._redis.ask([("EVAL", _WRONG, 2, *keys, self._settings.wrong_codes, lasts_ms)])
        return int(left)

    async def right(self, user: str) -> None:
        """Forget the wrong ones."""
        await self._redis.ask([("DEL", WRONG + user)])


def _key(text: str) -> str:
    """Only a hash is kept: who can read Redis cannot answer."""
    return CHALLENGE + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
