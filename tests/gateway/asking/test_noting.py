"""What is noted on the side is found in the store, in few round trips; nobody fails where it is away."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from core.errors import Unavailable
from gateway.asking.noting import Noting
from pipelines.asking.outcomes import InMemoryOutcomes, Reserved

RESERVED = Reserved(b"a" * 32, "fraud", 1_000, 2_000)


class Slow(InMemoryOutcomes):
    """Its answers come when `open` is set; away where told so."""

    def __init__(self) -> None:
        super().__init__(ttl=timedelta(minutes=1))
        self.open, self.away, self.trips = asyncio.Event(), False, 0

    async def note(self, asked: Sequence[tuple[str, str, Reserved]]) -> None:
        self.trips += 1
        await self.open.wait()
        if self.away:
            raise Unavailable("away")
        await super().note(asked)


async def known(store: Slow, ids: Sequence[str]) -> None:
    async with asyncio.timeout(10):
        while any(store.peek("acme", id).reserved != RESERVED for id in ids):
            await asyncio.sleep(0)


async def test_what_comes_during_a_round_trip_goes_with_the_next() -> None:
    store = Slow()
    noting = Noting(store)
    ids = [str(n) for n in range(20)]
    noting.note("acme", ids[0], RESERVED)
    await asyncio.sleep(0)
    for id in ids[1:]:
        noting.note("acme", id, RESERVED)
        await asyncio.sleep(0)
    store.open.set()
    await known(store, ids)
    assert store.trips == 2


async def test_while_the_store_is_away_nothing_fails_and_later_ones_are_noted() -> None:
    store = Slow()
    store.away = True
    store.open.set()
    noting = Noting(store)
    noting.note("acme", "lost", RESERVED)
    async with asyncio.timeout(10):
        while not store.trips:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.away = False
    noting.note("acme", "kept", RESERVED)
    await known(store, ["kept"])
    assert store.peek("acme", "lost").reserved is None
