"""A breaker whose state all processes share, in Redis, by one script each for asking and telling."""

import asyncio
from dataclasses import dataclass

import redis.asyncio

from core.clock import Clock, SystemClock
from core.errors import CircuitOpen, DeclarationError, Unavailable
from operators.breaker import Breaker, Breaking, refusal
from pipelines.on_redis.round_trips import RoundTrips

KEY = "millstream:breaker:"
_KEPT = 10  # times `open_for` that a circuit is remembered after its last change

# Fields: f failures in succession, o open until (0: closed), p a probe is under way until, g generation.
# Times in microseconds of Redis' clock. Both scripts answer
# {may go, wait in us, generation, closed, failures}.
_HEAD = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local s = redis.call('HMGET', KEYS[1], 'f', 'o', 'p', 'g')
local f, o = tonumber(s[1] or 0), tonumber(s[2] or 0)
local p, g = tonumber(s[3] or 0), tonumber(s[4] or 0)
local each, most, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function put()
  redis.call('HSET', KEYS[1], 'f', f, 'o', string.format('%.17g', o), 'p', string.format('%.17g', p), 'g', g)
  redis.call('PEXPIRE', KEYS[1], kept)
end
"""
ADMIT = (
    _HEAD
    + """
if o == 0 then return {1, 0, g, 1, f} end
local till = math.max(o, p)
if now < till then return {0, till - now, g, 0, f} end
p, g = now + each, g + 1
put()
return {1, 0, g, 0, f}
"""
)
TELL = (
    _HEAD
    + """
local how, ticket = ARGV[4], tonumber(ARGV[5])
if how ~= 'look' and ticket == g then
  if how == 'ok' then
    f, o, p = 0, 0, 0
    put()
  elseif how == 'left' then
    p = 0
    put()
  else
    f = f + 1
    if o > 0 or f >= most then f, o, p, g = 0, now + each, 0, g + 1 end
    put()
  end
end
return {1, math.max(o - now, 0), g, o == 0 and 1 or 0, f}
"""
)


@dataclass(frozen=True)
class _Ticket:
    own: int
    shared: int | None


class RedisBreaker:
    """See `CircuitBreaker`. Breakers of one `name` on one Redis are one circuit.

    While the circuit is closed a call asks nobody; what others saw is looked up at most every `look_s`, so
    that an opening elsewhere is known that much later. Failures, and calls that follow them, are told at
    once. The process keeps a count of its own beside it, which alone holds while Redis is away.
    """

    def __init__(
        self,
        client: "redis.asyncio.Redis",
        breaking: Breaking,
        *,
        name: str,
        look_s: float = 0.25,
        timeout_s: float = 0.25,
        rest_s: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._name = name
        self._own = Breaker(self._clock, breaking, name=name)
        self._look_s = look_s
        open_ms = breaking.open_for.total_seconds() * 1000
        self._arguments = (KEY + name, repr(open_ms * 1000), breaking.failures, int(open_ms * _KEPT))
        self._redis = RoundTrips(
            client,
            where=f"breaker {name}",
            code="breaker_unavailable",
            timeout_s=timeout_s,
            rest_s=rest_s,
            clock=self._clock,
        )
        self._closed = False
        self._failures = 0
        self._generation = 0
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def admit(self) -> object:
        own = self._own.admit()
        if self._closed:
            if self._clock.monotonic() >= self._look_at:
                self._look()
            return _Ticket(own, self._generation)
        try:
            may_go, wait_us, generation = await self._ask(ADMIT)
        except Unavailable:
            return _Ticket(own, None)
        except BaseException:
            self._own.abandoned(own)
            raise
        if not may_go:
            self._own.abandoned(own)
            raise self._refusal(wait_us)
        return _Ticket(own, generation)

    async def succeeded(self, ticket: object) -> None:
        mine = _mine(ticket)
        self._own.succeeded(mine.own)
        if mine.shared is not None and (self._failures or not self._closed):
            await self._tell("ok", mine.shared)

    async def failed(self, ticket: object) -> None:
        mine = _mine(ticket)
        self._own.failed(mine.own)
        if mine.shared is not None:
            await self._tell("failed", mine.shared)

    async def abandoned(self, ticket: object) -> None:
        mine = _mine(ticket)
        self._own.abandoned(mine.own)
        if mine.shared is not None and not self._closed:
            await self._tell("left", mine.shared)

    async def _tell(self, how: str, ticket: int) -> None:
        try:
            await self._ask(TELL, how, ticket)
        except Unavailable:
            self._closed = False  # it is asked for again before the next call

    async def _ask(self, script: str, *more: object) -> tuple[int, int, int]:
        key, *fixed = self._arguments
        (found,) = await self._redis.ask([("EVAL", script, 1, key, *fixed, *more)])
        may_go, wait_us, generation, closed, failures = found
        self._closed, self._failures, self._generation = bool(closed), failures, generation
        self._look_at = self._clock.monotonic() + self._look_s
        return may_go, wait_us, generation

    def _look(self) -> None:
        if self._looking is None or self._looking.done():
            self._look_at = self._clock.monotonic() + self._look_s
            self._looking = asyncio.get_running_loop().create_task(self._tell("look", -1))

    def _refusal(self, wait_us: int) -> CircuitOpen:
        return refusal(self._name, wait_us / 1e6)


def _mine(ticket: object) -> _Ticket:
    if not isinstance(ticket, _Ticket):
        raise DeclarationError(f"ticket {ticket!r} is of another breaker", mend="give the one of `admit`")
    return ticket
