"""Sessions in Redis: begun by a login, kept up by refreshing, ended by whoever they belong to.

    millstream:session:<id>            a hash: whose, since when, the newest refresh token (hashed)
    millstream:sessions:<user>         the sessions of a user, by when they are over
    millstream:revoked                 a stream: sessions that were ended before their time, for the gateways

Every change is one script, so that of two who refresh with one token one is refused, and a session that is
ended is on the stream before anybody is answered. The stream holds what ended within the life of an access
token; what is older needs no telling, for its tokens have expired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import redis.asyncio

from core.clock import Clock, from_millis, to_millis
from core.people_settings import People
from gateway.people.refresh_tokens import RefreshToken, first_token
from pipelines.on_redis.round_trips import RoundTrips

SESSION, OF_USER, REVOKED = "millstream:session:", "millstream:sessions:", "millstream:revoked"
TOLD_AT_ONCE = 10_000
_MOST_TEXT = 200

_BEGIN = """
local session, ours, revoked = KEYS[1], KEYS[2], KEYS[3]
local id, now, over, most, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
redis.call('HSET', session, unpack(ARGV, 6))
redis.call('PEXPIREAT', session, over)
redis.call('ZREMRANGEBYSCORE', ours, '-inf', now)
local many = redis.call('ZCARD', ours) - most + 1
if many > 0 then
  for _, old in ipairs(redis.call('ZRANGE', ours, 0, many - 1)) do
    redis.call('DEL', 'millstream:session:' .. old)
    redis.call('ZREM', ours, old)
    redis.call('XADD', revoked, 'MINID', '~', kept, '*', 'id', old)
  end
end
redis.call('ZADD', ours, over, id)
redis.call('PEXPIREAT', ours, redis.call('ZRANGE', ours, -1, -1, 'WITHSCORES')[2])
return 1
"""

_REFRESH = """
local session, ours, revoked = KEYS[1], KEYS[2], KEYS[3]
local id, family, secret, new, now, idle, kept = unpack(ARGV)
local there = redis.call('HMGET', session, 'family', 'secret', 'longest')
if not there[1] or there[1] ~= family then return 'absent' end
if there[2] ~= secret then
  redis.call('DEL', session)
  redis.call('ZREM', ours, id)
  redis.call('XADD', revoked, 'MINID', '~', kept, '*', 'id', id)
  return 'reused'
end
local over = math.min(tonumber(now) + tonumber(idle), tonumber(there[3]))
redis.call('HSET', session, 'secret', new, 'refreshed', now)
redis.call('PEXPIREAT', session, string.format('%d', over))
redis.call('ZADD', ours, string.format('%d', over), id)
redis.call('PEXPIREAT', ours, redis.call('ZRANGE', ours, -1, -1, 'WITHSCORES')[2])
return 'good'
"""

_END = """
local ours, revoked = KEYS[1], KEYS[2]
local kept = ARGV[1]
local ended = 0
for n = 2, #ARGV do
  if redis.call('ZREM', ours, ARGV[n]) == 1 then
    redis.call('DEL', 'millstream:session:' .. ARGV[n])
    redis.call('XADD', revoked, 'MINID', '~', kept, '*', 'id', ARGV[n])
    ended = ended + 1
  end
end
return ended
"""

Refreshed = Literal["good", "absent", "reused"]


@dataclass(frozen=True)
class Session:
    """A session as its owner sees it."""

    id: str
    user: str
    tenant: str
    began_at: datetime
    refreshed_at: datetime
    address: str
    agent: str


class Sessions:
    """Belongs to one event loop. Every method raises Unavailable while Redis is away."""

    def __init__(self, client: "redis.asyncio.Redis", settings: People, clock: Clock) -> None:
        self._redis = RoundTrips(client, where="sessions", code="sessions_unavailable", clock=clock)
        self._settings = settings
        self._clock = clock

    async def begin(self, *, user: str, tenant: str, address: str, agent: str) -> RefreshToken:
        """A new session and its first refresh token; the oldest of too many ends."""
        token = first_token()
        now = to_millis(self._clock.now())
        longest = now + int(self._settings.longest_s * 1000)
        over = min(now + int(self._settings.idle_s * 1000), longest)
        fields = {
            "user": user, "tenant": tenant, "began": now, "refreshed": now, "longest": longest,
            "address": address, "agent": agent[:_MOST_TEXT],
            "family": token.family_hash.hex(), "secret": token.secret_hash.hex(),
        }  # fmt: skip
        flat = [part for pair in fields.items() for part in pair]
        keys = (SESSION + token.session, OF_USER + user, REVOKED)
        most = self._settings.sessions
        await self._run(_BEGIN, keys, token.session, now, over, most, self._kept(now), *flat)
        return token

    async def of(self, id: str) -> Session | None:
        """One session, or None where it is over."""
        (found,) = await self._redis.ask([("HGETALL", SESSION + id)])
        return _session(id, found)

    async def refresh(self, token: RefreshToken, following: RefreshToken, user: str) -> Refreshed:
        """Let `following` take the place of `token`. `reused`: it was used before, and the session is over
        with this."""
        now = to_millis(self._clock.now())
        said = await self._run(
            _REFRESH, (SESSION + token.session, OF_USER + user, REVOKED),
            token.session, token.family_hash.hex(), token.secret_hash.hex(), following.secret_hash.hex(),
            now, int(self._settings.idle_s * 1000), self._kept(now),
        )  # fmt: skip
        answer: Refreshed = said.decode()
        return answer

    async def all_of(self, user: str) -> list[Session]:
        """The user's sessions, the newest first."""
        now = to_millis(self._clock.now())
        (ids,) = await self._redis.ask([("ZRANGEBYSCORE", OF_USER + user, f"({now}", "+inf")])
        names = [id.decode() for id in ids]
        found = await self._redis.ask([("HGETALL", SESSION + id) for id in names]) if names else []
        sessions = [_session(id, fields) for id, fields in zip(names, found, strict=True)]
        there = (one for one in sessions if one is not None and one.user == user)
        return sorted(there, key=lambda one: one.began_at, reverse=True)

    async def end(self, user: str, *ids: str) -> int:
        """End these sessions of the user; how many there were."""
        if not ids:
            return 0
        now = to_millis(self._clock.now())
        return int(await self._run(_END, (OF_USER + user, REVOKED), self._kept(now), *ids))

    async def end_all(self, user: str) -> int:
        """End every session of the user."""
        return await self.end(user, *(one.id for one in await self.all_of(user)))

    async def revoked_since(self, position: str) -> tuple[list[tuple[datetime, str]], str]:
        """When sessions were ended and which, after a position, and the position of the last; `0` is before
        all. What the stream has lost (a Redis that lost its data) begins anew."""
        start = "-" if position == "0" else f"({position}"
        found, last = await self._redis.ask(
            [
                ("XRANGE", REVOKED, start, "+", "COUNT", TOLD_AT_ONCE),
                ("XREVRANGE", REVOKED, "+", "-", "COUNT", 1),
            ]
        )
        newest = last[0][0].decode() if last else "0"
        if _parts(newest) < _parts(position):
            return await self.revoked_since("0") if last else ([], "0")
        entries = [(entry[0].decode(), entry[1]) for entry in found]
        told = [(from_millis(_parts(at)[0]), _id(fields)) for at, fields in entries]
        return told, entries[-1][0] if entries else position

    def _kept(self, now: int) -> int:
        """The stream keeps what is younger than the life of an access token, and a minute."""
        lasts = timedelta(seconds=self._settings.access_s + 2 * self._settings.skew_s + 60)
        return max(0, now - lasts // timedelta(milliseconds=1))

    async def _run(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        (said,) = await self._redis.ask([("EVAL", script, len(keys), *keys, *arguments)])
        return said


def _session(id: str, found: Any) -> Session | None:
    """From what HGETALL says: a mapping, or a flat list of names and values."""
    fields = _mapping(found)
    if not fields:
        return None
    return Session(
        id=id,
        user=fields["user"],
        tenant=fields["tenant"],
        began_at=from_millis(int(fields["began"])),
        refreshed_at=from_millis(int(fields["refreshed"])),
        address=fields["address"],
        agent=fields["agent"],
    )


def _mapping(found: Any) -> Mapping[str, str]:
    pairs = found.items() if isinstance(found, Mapping) else zip(found[::2], found[1::2], strict=True)
    return {name.decode(): value.decode("utf-8", "replace") for name, value in pairs}


def _id(fields: Any) -> str:
    return _mapping(fields)["id"]


def _parts(position: str) -> tuple[int, int]:
    first, _, second = position.partition("-")
    return int(first), int(second or 0)
