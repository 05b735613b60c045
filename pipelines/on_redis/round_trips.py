"""Commands to Redis from many requests at once, in few round trips."""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import hiredis
import msgspec
import redis.asyncio
import redis.exceptions

from core.clock import Clock, SystemClock
from core.errors import Unavailable
from core.patience import Patience
from core.telemetry.log import logger
from core.turns import MOST

Command = tuple[Any, ...]
_IDLE_S = 0.2
"""A connection that was not used for longer is looked at before it is used: its other end may be gone."""
_LOG = logger("on_redis")


class RoundTrips:
    """While one pipeline is on its way, the commands of other requests gather for the next, so that a busy
    process pays for few round trips. After a failure the next `rest_s` seconds are answered Unavailable
    without asking: an outage costs one pipeline a timeout, not every request.

    It keeps one of the client's connections for itself: taking one from the pool for each pipeline, and
    packing its commands in Python, took a sixth of a busy gateway's event loop, this an eighteenth.

    `where` and `code` are those of the Unavailable. Belongs to the event loop that uses it first.
    """

    def __init__(
        self,
        client: "redis.asyncio.Redis",
        *,
        where: str,
        code: str,
        timeout_s: float = 0.5,
        rest_s: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._where, self._code = where, code
        self._timeout_s = timeout_s
        self._rest_s = rest_s
        self._clock = clock or SystemClock()
        self._away_until = 0.0
        self._told_away = False
        self._waiting: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: asyncio.Task[None] | None = None
        self._connection: redis.asyncio.Connection | None = None
        self._used_at = 0.0

    def ask(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        """The answers of the commands, in order, as Redis gives them. Raises Unavailable, now or when it is
        awaited."""
        if self._clock.monotonic() < self._away_until:
            raise self._away()
        loop = self._loop = self._loop or asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((commands, answer))
        if self._sender is None:
            self._sender = loop.create_task(self._send(), name=self._where)
        return answer

    async def _send(self) -> None:
        """One pipeline after the other until nobody waits."""
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                await self._round_trip(asked)
        finally:
            self._sender = None

    async def _round_trip(self, asked: "list[tuple[Sequence[Command], asyncio.Future[list[Any]]]]") -> None:
        try:
            async with Patience(self._timeout_s):
                answers = await self._execute([command for commands, _ in asked for command in commands])
        except (redis.exceptions.RedisError, TimeoutError, OSError) as error:
            self._away_until = self._clock.monotonic() + self._rest_s
            if not self._told_away:  # once, not with every request
                _LOG.warning("Redis is away", where=self._where, error=f"{type(error).__name__}: {error}")
                self._told_away = True
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(self._away())
            return
        if self._told_away:
            _LOG.info("Redis answers again", where=self._where)
            self._told_away = False
        start = 0
        for number, (commands, answer) in enumerate(asked, 1):
            if not number % MOST:
                await asyncio.sleep(0)
            if not answer.done():
                answer.set_result(answers[start : start + len(commands)])
            start += len(commands)

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        connection, now = self._connection, self._clock.monotonic()
        if connection is None:
            connection = self._connection = await self._client.connection_pool.get_connection("_")
            connection.socket_timeout = None  # all answers of a pipeline have one limit, not each its own
        elif now - self._used_at > _IDLE_S and connection.is_connected:
            try:
                stale = await connection.can_read_destructive()  # type: ignore[no-untyped-call]
            except redis.exceptions.ConnectionError:
                stale = True
            if stale:
                await connection.disconnect(nowait=True)
        self._used_at = now
        try:
            await connection.send_packed_command(b"".join(map(hiredis.pack_command, commands)))
            return [await connection.read_response() for _ in commands]
        except redis.exceptions.ResponseError:
            await connection.disconnect(nowait=True)  # the answers behind it would be taken for the next ones
            raise

    def _away(self) -> Unavailable:
        return Unavailable("Redis is away", where=self._where, code=self._code)


class TimedValues:
    """What stores of values with a time to live have in common: MessagePack, and commands in `RoundTrips`."""

    where: ClassVar[str]
    code: ClassVar[str]

    def __init__(
        self,
        client: "redis.asyncio.Redis",
        *,
        ttl: timedelta,
        timeout_s: float = 0.5,
        rest_s: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        self._ttl_ms = ttl // timedelta(milliseconds=1)
        self._encode = msgspec.msgpack.Encoder().encode
        self._redis = RoundTrips(
            client, where=self.where, code=self.code, timeout_s=timeout_s, rest_s=rest_s, clock=clock
        )
