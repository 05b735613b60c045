"""The outcome store: what became of each request, for a time, where every gateway and worker finds it.

A gateway reserves (tenant, id) with the digest of the body before it asks; a worker writes the pieces of a
streamed answer as they are sent, and the end before it is sent. The first final end stays: whoever ends the
same request again is given that one, so that every asker of an id is answered alike. An end that is not
final (expired, cancelled, an error that may pass) gives way to the next.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

import msgspec

from core.clock import Clock, SystemClock
from core.errors import MillstreamError, Unavailable
from pipelines.asking.failures import failure_of
from pipelines.on_redis.round_trips import Command, TimedValues
from schemas.catalog.asking import Failure, State
from schemas.keys import key_of

KEY = "millstream:asked:"
_TRIES = 3
ANSWERED: State = "answered"
FAILED: State = "failed"
EXPIRED: State = "expired"
CANCELLED: State = "cancelled"
# A final end begins with 1. ARGV: the end, its time to live in ms.
_END = """
local there = redis.call('GET', KEYS[1])
if there and string.sub(there, 1, 1) == '1' then return there end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""

# Where no other request has the id, and no final end is there: the reservation and the end. ARGV: both, the
# time to live in ms, the digest that tells requests apart, which both hold. Returns what was there before.
_SETTLE = """
local reserved, ended = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
local others = (reserved and not string.find(reserved, ARGV[4], 1, true))
    or (ended and not string.find(ended, ARGV[4], 1, true))
if not others and not (ended and string.sub(ended, 1, 1) == '1') then
    if not reserved then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3]) end
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
return {reserved, ended}
"""

# Forgets an end that is not final.
_REOPEN = """
local there = redis.call('GET', KEYS[1])
if there and string.sub(there, 1, 1) ~= '1' then redis.call('DEL', KEYS[1]) end
return 1
"""


class Reserved(msgspec.Struct, frozen=True, array_like=True):
    """A request as the first gateway took it. Times are milliseconds since the epoch."""

    digest: bytes
    pipeline: str
    asked_at_ms: int
    deadline_ms: int


class End(msgspec.Struct, frozen=True, array_like=True):
    """How a request ended. pieces: how many were sent before; status and body: where `answered`."""

    digest: bytes
    state: State
    attempt: str
    ended_at_ms: int
    pieces: int = 0
    status: int = 0
    body: bytes = b""
    failure: Failure | None = None
    final: bool = False


class Standing(msgspec.Struct, frozen=True):
    """What the store knows of a request. `pieces` only where they were asked for."""

    reserved: Reserved | None = None
    end: End | None = None
    pieces: Sequence[bytes] = ()


_NOTHING = Standing()


class OutcomeStore(Protocol):
    """Every method raises Unavailable while the store is away."""

    async def reserve(self, tenant: str, id: str, reserved: Reserved) -> Standing:
        """Write it where none is yet; what was there before. An end whose reservation is no more need not be
        told: whoever ends the request again is given it."""
        ...

    async def note(self, asked: Sequence[tuple[str, str, Reserved]]) -> None:
        """Write these, of ids that nobody else can have: (tenant, id, reservation)."""
        ...

    async def renew(self, tenant: str, id: str, reserved: Reserved) -> None:
        """It is asked again: write this instead, and forget an end that was not final."""
        ...

    async def begin(self, tenant: str, id: str) -> None:
        """An attempt begins: forget the pieces, and an end that was not final."""
        ...

    async def add(self, tenant: str, id: str, pieces: Sequence[bytes]) -> None:
        """The next pieces of the attempt."""
        ...

    async def end(self, tenant: str, id: str, end: End) -> End:
        """Write the end, unless a final one is there; the one that stands."""
        ...

    async def settle(self, tenant: str, id: str, reserved: Reserved, end: End) -> Standing:
        """Write both at once, where no reservation or end of another digest is there, and no final end; what
        was there before."""
        ...

    async def read(self, tenant: str, id: str, *, after: int | None = None) -> Standing:
        """What is known; with `after` (-1 for all) the pieces of higher numbers too."""
        ...


def digest_of(pipeline: str, body: bytes) -> bytes:
    """What tells a repeat from another request under the same id."""
    return hashlib.sha256(pipeline.encode() + b"\x00" + body).digest()


def failed(digest: bytes, error: BaseException, *, attempt: str, pieces: int, at_ms: int) -> End:
    """The end of a request whose answerer raised; final unless it may succeed later without a change."""
    final = not (isinstance(error, MillstreamError) and error.retryable)
    return End(digest, FAILED, attempt, at_ms, pieces, failure=failure_of(error), final=final)


@dataclass
class _Held:
    until: float
    standing: Standing = field(default_factory=Standing)


class InMemoryOutcomes:
    """One process's own: the newest `limit` requests, each for `ttl` after its last change."""

    def __init__(self, *, ttl: timedelta, limit: int = 20_000, clock: Clock | None = None) -> None:
        self._ttl = ttl.total_seconds()
        self._limit = limit
        self._clock = clock or SystemClock()
        self._held: OrderedDict[str, _Held] = OrderedDict()

    async def reserve(self, tenant: str, id: str, reserved: Reserved) -> Standing:
        there = self.peek(tenant, id)
        if there.reserved is None:
            self._put(tenant, id, Standing(reserved, there.end, there.pieces))
        return Standing(there.reserved, there.end)

    async def note(self, asked: Sequence[tuple[str, str, Reserved]]) -> None:
        for tenant, id, reserved in asked:
            there = self.peek(tenant, id)
            self._put(tenant, id, Standing(reserved, there.end, there.pieces))

    async def renew(self, tenant: str, id: str, reserved: Reserved) -> None:
        there = self.peek(tenant, id)
        self._put(tenant, id, Standing(reserved, there.end if _final(there.end) else None, there.pieces))

    async def begin(self, tenant: str, id: str) -> None:
        there = self.peek(tenant, id)
        self._put(tenant, id, Standing(there.reserved, there.end if _final(there.end) else None))

    async def add(self, tenant: str, id: str, pieces: Sequence[bytes]) -> None:
        there = self.peek(tenant, id)
        self._put(tenant, id, Standing(there.reserved, there.end, (*there.pieces, *pieces)))

    async def end(self, tenant: str, id: str, end: End) -> End:
        there = self.peek(tenant, id)
        if there.end is not None and there.end.final:
            return there.end
        self._put(tenant, id, Standing(there.reserved, end, there.pieces))
        return end

    async def settle(self, tenant: str, id: str, reserved: Reserved, end: End) -> Standing:
        there = self.peek(tenant, id)
        others = any(one is not None and one.digest != reserved.digest for one in (there.reserved, there.end))
        if not others and not _final(there.end):
            self._put(tenant, id, Standing(there.reserved or reserved, end, there.pieces))
        return Standing(there.reserved, there.end)

    async def read(self, tenant: str, id: str, *, after: int | None = None) -> Standing:
        there = self.peek(tenant, id)
        return Standing(there.reserved, there.end, () if after is None else there.pieces[after + 1 :])

    def peek(self, tenant: str, id: str) -> Standing:
        """Everything known, without waiting."""
        held = self._held.get(key_of(tenant, id))
        return Standing() if held is None or self._clock.monotonic() >= held.until else held.standing

    def _put(self, tenant: str, id: str, standing: Standing) -> None:
        key = key_of(tenant, id)
        self._held[key] = _Held(self._clock.monotonic() + self._ttl, standing)
        self._held.move_to_end(key)
        while len(self._held) > self._limit:
            self._held.popitem(last=False)


class RedisOutcomes(TimedValues):
    """Three values per (tenant, id) in one slot: the reservation, the end, the list of pieces.

    `RoundTrips` says how the commands of many requests travel, and what an outage costs.
    """

    where = "outcome store"
    code = "outcomes_unavailable"
    _reserved = staticmethod(msgspec.msgpack.Decoder(Reserved).decode)
    _end = staticmethod(msgspec.msgpack.Decoder(End).decode)

    async def reserve(self, tenant: str, id: str, reserved: Reserved) -> Standing:
        request, value = _request(tenant, id), self._encode(reserved)
        for _ in range(_TRIES):
            (was_set,) = await self._redis.ask([("SET", request, value, "PX", self._ttl_ms, "NX")])
            if was_set:
                return _NOTHING
            ((there, end),) = await self._redis.ask([("MGET", request, _answer(tenant, id))])
            if there is not None:  # else it has just expired
                return Standing(self._request_of(there), self._end_of(end))
        raise Unavailable(f"what is at {request!r} is no reservation", where=self.where, code=self.code)

    async def note(self, asked: Sequence[tuple[str, str, Reserved]]) -> None:
        await self._redis.ask(
            [
                ("SET", _request(tenant, id), self._encode(reserved), "PX", self._ttl_ms)
                for tenant, id, reserved in asked
            ]
        )

    async def renew(self, tenant: str, id: str, reserved: Reserved) -> None:
        await self._redis.ask(
            [
                ("SET", _request(tenant, id), self._encode(reserved), "PX", self._ttl_ms),
                ("EVAL", _REOPEN, 1, _answer(tenant, id)),
            ]
        )

    async def begin(self, tenant: str, id: str) -> None:
        await self._redis.ask([("EVAL", _REOPEN, 1, _answer(tenant, id)), ("DEL", _pieces(tenant, id))])

    async def add(self, tenant: str, id: str, pieces: Sequence[bytes]) -> None:
        key = _pieces(tenant, id)
        await self._redis.ask([("RPUSH", key, *pieces), ("PEXPIRE", key, self._ttl_ms)])

    async def end(self, tenant: str, id: str, end: End) -> End:
        answer, value = _answer(tenant, id), (b"1" if end.final else b"0") + self._encode(end)
        (was_set,) = await self._redis.ask([("SET", answer, value, "PX", self._ttl_ms, "NX")])
        if was_set:  # else a script looks at what is there: it costs Redis several times as much
            return end
        (there,) = await self._redis.ask([("EVAL", _END, 1, answer, value, self._ttl_ms)])
        return self._end_of(there) or end

    async def settle(self, tenant: str, id: str, reserved: Reserved, end: End) -> Standing:
        keys = (_request(tenant, id), _answer(tenant, id))
        value = b"1" + self._encode(end)
        arguments = (self._encode(reserved), value, self._ttl_ms, reserved.digest)
        ((there, ended),) = await self._redis.ask([("EVAL", _SETTLE, 2, *keys, *arguments)])
        return Standing(self._request_of(there), self._end_of(ended))

    async def read(self, tenant: str, id: str, *, after: int | None = None) -> Standing:
        commands: list[Command] = [("MGET", _request(tenant, id), _answer(tenant, id))]
        if after is not None:
            commands.append(("LRANGE", _pieces(tenant, id), after + 1, -1))
        (reserved, end), *pieces = await self._redis.ask(commands)
        return Standing(self._request_of(reserved), self._end_of(end), pieces[0] if pieces else ())

    def _request_of(self, value: bytes | None) -> Reserved | None:
        return None if value is None else self._reserved(value)

    def _end_of(self, value: bytes | None) -> End | None:
        return None if value is None else self._end(value[1:])


def _base(tenant: str, id: str) -> str:
    """What is in braces decides the slot."""
    return f"{KEY}{{{key_of(tenant, id)}}}"


def _request(tenant: str, id: str) -> str:
    return f"{_base(tenant, id)}:request"


def _answer(tenant: str, id: str) -> str:
    return f"{_base(tenant, id)}:answer"


def _pieces(tenant: str, id: str) -> str:
    return f"{_base(tenant, id)}:pieces"


def _final(end: End | None) -> bool:
    return end is not None and end.final
