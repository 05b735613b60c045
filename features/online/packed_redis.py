"""Packed values in Redis 6.2 or later, one string per key.

A batch is written in one round trip per 1,024 values, by scripts of 32 keys each: twice as fast as a script
per key. On a Redis Cluster a script may only touch one slot: give `keys_per_script=1` there.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import redis
import redis.asyncio
from hiredis import HiredisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from core.errors import Unavailable
from core.patience import Patience
from features.online.packed_codec import PREFIX_BYTES, VERSION
from features.online.packed_connection import Connection, multi_get
from features.online.packed_values import Entry

KEYS_PER_SCRIPT = 32
_PIPELINED = 1_024

# ARGV: time to live in ms, the values, the values to be replaced in any case ('' for none).
# MGET, because GET fails on a key of another type. 64-bit numbers are compared in halves: Lua has doubles.
_PUT = f"""
local stays = {{}}
local found = redis.call('MGET', unpack(KEYS))
for i = 1, #KEYS do
  local there, value = found[i], ARGV[1 + i]
  if there == value then
    stays[i] = false
  else
    local keep = false
    if there and there ~= ARGV[1 + #KEYS + i] and #there >= {PREFIX_BYTES + VERSION.size}
        and string.sub(there, 1, {PREFIX_BYTES}) == string.sub(value, 1, {PREFIX_BYTES}) then
      local t0, t1, s0, s1 = struct.unpack('<I4i4I4i4', there, {PREFIX_BYTES + 1})
      local u0, u1, v0, v1 = struct.unpack('<I4i4I4i4', value, {PREFIX_BYTES + 1})
      if t1 ~= u1 then keep = t1 > u1
      elseif t0 ~= u0 then keep = t0 > u0
      elseif s1 ~= v1 then keep = s1 > v1
      else keep = s0 >= v0 end
    end
    if keep then
      stays[i] = there
    else
      redis.call('SET', KEYS[i], value, 'PX', ARGV[1])
      stays[i] = false
    end
  end
end
return stays
"""


class RedisPackedValues:
    """See `PackedValues`. Any error of the client or of the server is Unavailable; how long that takes is
    bounded by the client's socket timeouts. May be shared by threads, and used after a fork.

    Connections for `get` are taken from the client's pool, one for each thread that reads at the same time,
    and kept: the pool's checks take longer than a round trip to a Redis nearby. One that was closed meanwhile
    is replaced. They go back to the pool with this object.
    """

    def __init__(self, client: redis.Redis, *, keys_per_script: int = KEYS_PER_SCRIPT) -> None:
        self._client = client
        self._pool: redis.ConnectionPool = client.connection_pool
        self._kept: list[Connection] = []
        self._keys_per_script = keys_per_script
        self._put = client.register_script(_PUT)
        weakref.finalize(self, _give_back, self._pool, self._kept).atexit = False

    def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        if not keys:
            return []
        command, count = multi_get(keys), len(keys)
        try:
            connection = self._take()
            if connection is not None:
                try:
                    return self._ask(connection, command, count)
                except TimeoutError:
                    raise
                except OSError:
                    pass  # it was closed while nobody used it, or Redis is away: a new one tells
            return self._ask(Connection(cast(Any, self._pool.get_connection())), command, count)
        except (RedisError, HiredisError, OSError) as error:
            raise away(error) from error

    def _take(self) -> Connection | None:
        """A kept connection of this process; those of the process it was forked from are forgotten."""
        while self._kept:
            try:
                connection = self._kept.pop()
            except IndexError:  # another thread was faster
                return None
            if connection.of_this_process:
                return connection
        return None

    def _ask(self, connection: Connection, command: bytes, count: int) -> list[bytes | None]:
        """The connection is kept if it answered."""
        try:
            found = connection.get(command, count)
        except BaseException:
            _disconnect(self._pool, connection)  # an answer may still be on its way
            raise
        self._kept.append(connection)
        return found

    def put(self, entries: Sequence[Entry], ttl_ms: int) -> list[bytes | None]:
        stays: list[bytes | None] = []
        try:
            for begin in range(0, len(entries), _PIPELINED):
                stays += self._round_trip(entries[begin : begin + _PIPELINED], ttl_ms)
        except (RedisError, OSError) as error:
            raise away(error) from error
        return stays

    def _round_trip(self, entries: Sequence[Entry], ttl_ms: int) -> list[bytes | None]:
        size = self._keys_per_script
        calls = [self._call(entries[at : at + size], ttl_ms) for at in range(0, len(entries), size)]
        answers = self._execute(calls)
        forgotten = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if forgotten:  # a server that started anew; the same values once more change nothing
            self._client.script_load(_PUT)
            again = self._execute([calls[at] for at in forgotten])
            for at, answer in zip(forgotten, again, strict=True):
                answers[at] = answer
        stays: list[bytes | None] = []
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            stays += answer
        return stays

    def _call(self, entries: Sequence[Entry], ttl_ms: int) -> list[Any]:
        keys = [entry.key for entry in entries]
        values = [entry.value for entry in entries]
        damaged = [entry.instead_of or b"" for entry in entries]
        return ["EVALSHA", self._put.sha, len(keys), *keys, ttl_ms, *values, *damaged]

    def _execute(self, calls: Sequence[list[Any]]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            command: Callable[..., Any] = pipe.execute_command
            for call in calls:
                command(*call)
            return list(pipe.execute(raise_on_error=False))


class AsyncRedisPackedValues:
    """See `AsyncPackedValues`. timeout_s: the longest that one `get` takes, connecting included.

    Connections are taken from the client's pool and kept, which saves the pool's checks, a third of a call's
    work; one that was closed meanwhile is replaced. redis-py's coroutines pack a command key by key, which
    for 500 keys takes as long as all the rest of the call: `multi_get` makes it in one piece.
    """

    def __init__(self, client: "redis.asyncio.Redis", *, timeout_s: float = 0.5) -> None:
        self._pool: redis.asyncio.ConnectionPool = client.connection_pool
        self._kept: list[redis.asyncio.Connection] = []
        self._timeout_s = timeout_s

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        if not keys:
            return []
        command = multi_get(keys)
        try:
            async with Patience(self._timeout_s):
                if self._kept:
                    with suppress(RedisConnectionError):
                        return await self._ask(self._kept.pop(), command)
                return await self._ask(await self._pool.get_connection(), command)
        except (RedisError, OSError) as error:  # OSError: TimeoutError is one
            raise away(error) from error

    async def _ask(self, connection: "redis.asyncio.Connection", command: bytes) -> list[bytes | None]:
        """The connection is kept if it answered; otherwise redis-py has closed it."""
        try:
            await connection.send_packed_command(command)
            found = await connection.read_response()
        except BaseException:
            await self._pool.release(connection)
            raise
        self._kept.append(connection)
        return cast("list[bytes | None]", found)


def _give_back(pool: redis.ConnectionPool, connections: list[Connection]) -> None:
    while connections:
        _disconnect(pool, connections.pop())


def _disconnect(pool: redis.ConnectionPool, connection: Connection) -> None:
    connection.opened.disconnect()
    pool.release(cast(redis.Connection, connection.opened))


def away(error: Exception) -> Unavailable:
    """What a caller hears while Redis does not answer, or refuses."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return Unavailable(
        f"Redis: {line}", where="online store", mend="try again soon", code="redis_unavailable"
    )
