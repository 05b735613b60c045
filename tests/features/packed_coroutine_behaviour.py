"""What reading packed values from coroutines does, wherever they lie: inherited by memory and Redis."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from core.clock import ManualClock
from core.errors import QueueFull, TooLarge, Unavailable
from features.online.packed_reader import AsyncPackedReader, PackedReader
from features.online.packed_values import AsyncPackedValues
from features.online.packed_writer import PackedWriter
from tests.features.packed_backend import Backend, fresh_tenant, row, told
from tests.features.packed_layouts import DEMAND, LAYOUTS, NOW, NOW_MS, WORDS


class Counting:
    """Values, with the calls counted and what went wrong decided by the test."""

    def __init__(self, values: AsyncPackedValues) -> None:
        self.inner = values
        self.calls: list[int] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        self.calls.append(len(keys))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await self.inner.get(keys)


class PackedCoroutineBehaviour:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    @pytest.fixture
    def reader(self, backend: Backend) -> PackedReader:
        return PackedReader(backend.values, ManualClock(NOW))

    async def test_coroutines_read_the_same(self, backend: Backend, reader: PackedReader) -> None:
        tenant = fresh_tenant()
        rows = [row(f"e{n}", NOW_MS - n * 1000, 0, (n, n / 3, None, n, None), tenant) for n in range(130)]
        PackedWriter(backend.values, DEMAND).write(rows)
        entities = [f"e{n % 140}" for n in range(300)]
        coroutines = AsyncPackedReader(backend.coroutine_values(), ManualClock(NOW), keys_per_call=64)
        found = await asyncio.gather(*(coroutines.read(DEMAND, tenant, entity) for entity in entities))
        assert list(map(told, found)) == [told(reader.read(DEMAND, tenant, entity)) for entity in entities]
        batch = await coroutines.read_batch(DEMAND, tenant, entities)
        assert batch.equals(reader.read_batch(DEMAND, tenant, entities))
        for many in (
            await coroutines.read_many(DEMAND, tenant, entities),
            reader.read_many(DEMAND, tenant, entities),
        ):
            assert list(map(told, many)) == list(map(told, found))
        assert await coroutines.read_many(DEMAND, tenant, []) == reader.read_many(DEMAND, tenant, []) == []

    async def test_reads_of_one_tick_are_one_call_of_bounded_size(self, backend: Backend) -> None:
        counting = Counting(backend.coroutine_values())
        coroutines = AsyncPackedReader(counting, ManualClock(NOW), keys_per_call=100)
        tenant = fresh_tenant()
        layouts = [LAYOUTS[n % 2] for n in range(80)]
        await asyncio.gather(*(coroutines.read(layout, tenant, f"e{n}") for n, layout in enumerate(layouts)))
        assert counting.calls == [80]
        counting.calls.clear()
        await asyncio.gather(
            *(coroutines.read(DEMAND, tenant, f"e{n}") for n in range(150)),
            coroutines.read_batch(WORDS, tenant, ["x"] * 260),
        )
        assert sum(counting.calls) == 410
        assert max(counting.calls) <= 100
        assert len(counting.calls) <= 6

    async def test_who_is_cancelled_takes_only_itself_away(self, backend: Backend) -> None:
        tenant = fresh_tenant()
        PackedWriter(backend.values, DEMAND).write([row("a", NOW_MS, tenant=tenant)])
        counting = Counting(backend.coroutine_values())
        coroutines = AsyncPackedReader(counting, ManualClock(NOW), most_waiting=12)
        counting.gate.clear()

        def begin(count: int) -> list[asyncio.Task[Any]]:
            return [asyncio.create_task(coroutines.read(DEMAND, tenant, "a")) for _ in range(count)]

        under_way = begin(5)
        while not counting.calls:
            await asyncio.sleep(0)
        waiting = begin(5)
        await asyncio.sleep(0)
        for task in (*under_way[:3], *waiting[:3]):
            task.cancel()
        counting.gate.set()
        found = await asyncio.gather(*under_way, *waiting, return_exceptions=True)
        gone = [isinstance(one, asyncio.CancelledError) for one in found]
        assert gone == [True, True, True, False, False] * 2
        assert all(one.values["bookings"] == 3 for one in found if not isinstance(one, BaseException))
        assert counting.calls == [5, 2]
        assert len(await asyncio.gather(*begin(12))) == 12  # nobody is still held against the bound

    async def test_who_was_served_or_went_away_while_others_kept_reading_is_held_no_more(
        self, backend: Backend
    ) -> None:
        counting = Counting(backend.coroutine_values())
        coroutines = AsyncPackedReader(counting, ManualClock(NOW), keys_per_call=2, most_waiting=9)
        tenant = fresh_tenant()

        async def keep_reading() -> None:
            for _ in range(40):
                await coroutines.read(DEMAND, tenant, "a")

        async def keep_leaving() -> int:
            left = 0
            for n in range(40):
                one, two = (
                    coroutines.read(DEMAND, tenant, "b"),
                    coroutines.read_batch(DEMAND, tenant, ["b"] * 2),
                )
                task: asyncio.Task[Any] = asyncio.create_task(one if n % 2 else two)
                (two if n % 2 else one).close()
                await asyncio.sleep(0)
                left += task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await coroutines.read(DEMAND, tenant, "c")  # it leaves the queue before this is answered
            return left

        *_, left = await asyncio.gather(*(keep_reading() for _ in range(6)), keep_leaving())
        assert left == 40

    async def test_an_error_reaches_everyone_who_waits_and_the_next_read_asks_anew(
        self, backend: Backend
    ) -> None:
        counting = Counting(backend.coroutine_values())
        coroutines = AsyncPackedReader(counting, ManualClock(NOW), keys_per_call=3, most_waiting=12)
        tenant = fresh_tenant()
        for error in (Unavailable("away", code="redis_unavailable"), RuntimeError("a bug")):
            counting.error = error
            counting.calls.clear()
            found = await asyncio.gather(
                *(coroutines.read(DEMAND, tenant, "a") for _ in range(6)),
                coroutines.read_batch(DEMAND, tenant, ["a"] * 5),
                return_exceptions=True,
            )
            codes = {getattr(one, "code", None) for one in found}
            assert codes == {"redis_unavailable" if isinstance(error, Unavailable) else "internal_error"}
            assert len({id(one) for one in found}) == 7
            assert counting.calls == [3]
        counting.error = None
        assert (await coroutines.read(DEMAND, tenant, "a")).statuses["bookings"] == "missing"

    async def test_more_than_may_wait_is_refused_at_once(self, backend: Backend) -> None:
        counting = Counting(backend.coroutine_values())
        coroutines = AsyncPackedReader(counting, ManualClock(NOW), keys_per_call=4, most_waiting=10)
        counting.gate.clear()
        tenant = fresh_tenant()
        waiting = [asyncio.create_task(coroutines.read(DEMAND, tenant, "a")) for _ in range(8)]
        while not counting.calls:
            await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await coroutines.read_batch(DEMAND, tenant, ["a"] * 3)
        with pytest.raises(TooLarge):
            await coroutines.read_batch(DEMAND, tenant, ["a"] * 11)
        waiting.append(asyncio.create_task(coroutines.read_batch(DEMAND, tenant, ["a"] * 2)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await coroutines.read(DEMAND, tenant, "a")
        counting.gate.set()
        await asyncio.gather(*waiting)
        assert (await coroutines.read_batch(DEMAND, tenant, ["a"] * 10)).num_rows == 10
