"""How the processes that answer by LLM are doing, as they tell it in Redis each second.

One hash, a field per process; a row older than `FRESH` says nothing any more.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from core.clock import Clock, from_millis, to_millis
from core.errors import Unavailable
from core.telemetry.log import logger
from operators.answer_statistics import BatchStatus

KEY = "millstream:llm:status"
FRESH = timedelta(seconds=5)
FORGOTTEN = timedelta(hours=1)
INTERVAL_S = 1.0
_log = logger("pipelines.batch_status")


class _Row(msgspec.Struct):
    at_ms: int
    status: BatchStatus


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Row).decode


class StatusBoard:
    """Written by every answering process under a name of its own, read by every gateway."""

    def __init__(self, client: redis.asyncio.Redis, clock: Clock) -> None:
        self._client: Any = client  # its types are of the blocking and the asynchronous client at once
        self._clock = clock

    async def read(self) -> dict[str, BatchStatus]:
        """By process, those that told something lately. Raises Unavailable while Redis is away."""
        try:
            rows = await self._client.hgetall(KEY)
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {type(error).__name__}", where="status of LLM answers") from error
        found: dict[str, BatchStatus] = {}
        old = []
        for name, value in rows.items():
            try:
                row = _decode(value)
            except msgspec.MsgspecError:  # of another release
                continue
            age = self._clock.now() - from_millis(row.at_ms)
            if age <= FRESH:
                found[name.decode()] = row.status
            elif age > FORGOTTEN:
                old.append(name)
        if old:
            await self._forget(old)
        return found

    async def tell(self, process: str, status: Callable[[], BatchStatus]) -> None:
        """For ever: write `status()` each second. Redis being away is no reason to end."""
        away = False
        while True:
            row = _encode(_Row(to_millis(self._clock.now()), status()))
            try:
                await self._client.hset(KEY, process, row)
                away = False
            except (RedisError, OSError) as error:
                if not away:
                    _log.warning("the status cannot be told", error=f"{type(error).__name__}: {error}")
                away = True
            await asyncio.sleep(INTERVAL_S)

    async def withdraw(self, process: str) -> None:
        """The process ends."""
        await self._forget([process.encode()])

    async def _forget(self, names: Sequence[bytes]) -> None:
        try:
            await self._client.hdel(KEY, *names)
        except (RedisError, OSError) as error:
            _log.warning("old status stays", error=f"{type(error).__name__}: {error}")
