"""Request-time reads of both shapes are what DuckDB says at those times; what is planted is found."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DeclarationError, UnknownName
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.judge import rolling_requests
from features.judge.requests import draw
from features.judge.verify_requests import RequestReport, verify_requests
from features.online.client import connect
from features.online.memory import MemoryRollingStore
from features.online.rows import ReadResult
from features.view import FeatureView
from tests.features.demand_events import NOON, as_table, event, streams
from tests.features.feature_tables import feature_rows
from tests.features.redis_server import own_redis
from tests.features.rides import SHAPES, Driver, Ride, drivers, rides, table, view
from tests.features.views import VIEW, swipe, swipes
from tests.features.views import table as swipe_table

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
LOOKUPS = {"driver_of": table(Driver, [])}
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with own_redis() as server, connect(server.settings) as connection:
        yield connection


def payments(number: int, seed: int) -> pa.Table:
    """Of a few cards of two tenants, over ten days, often close together; with repeats and out of order."""
    chance = random.Random(seed)
    spread = [chance.choice([1, 300, 86_400]) * chance.uniform(0, 10) for _ in range(number)]
    rows: Rows = [
        {
            "tenant": chance.choice(["acme", "acme|"]), "id": str(n),
            "card_id": chance.choice(["1-2-3", "x|%"]),
            "occurred_at": NOON + timedelta(seconds=round(spread[n], 3)),
            "amount_cents": chance.randrange(10**6),
            "email_domain": chance.choice([None, "a.example", "b.example"]),
        }
        for n in range(number)
    ]  # fmt: skip
    types = [
        ("tenant", pa.string()), ("id", pa.string()), ("card_id", pa.string()),
        ("occurred_at", pa.timestamp("ms", tz="UTC")), ("amount_cents", pa.int64()),
        ("email_domain", pa.string()),
    ]  # fmt: skip
    return pa.Table.from_pylist([*rows, *chance.sample(rows, number // 5)], pa.schema(types))


def demand(number: int, seed: int) -> list[Any]:
    chance = random.Random(seed)
    kinds = ["booking", "booking", "search", "cancel"]
    return [
        event(n, NOON + timedelta(seconds=chance.randrange(3_600)), chance.choice(kinds), chance.choice("ns"))
        for n in range(number)
    ]


def check(report: RequestReport, of: FeatureView, reads: int) -> None:
    assert report.ok, report
    assert (report.reads, report.truncated) == (reads, 0)
    assert list(report.by_feature) == list(of.feature_names)
    assert all(one.checked == reads for one in report.by_feature.values())


@pytest.mark.services
@pytest.mark.parametrize("in_redis", [False, True], ids=["in memory", "in Redis"])
def test_card_activity_reads_as_duckdb_says(client: redis.Redis, in_redis: bool) -> None:
    report = verify_requests(CARD_ACTIVITY, payments(300, 1), client=client if in_redis else None)
    check(report, CARD_ACTIVITY, 1_000)
    assert 50 < report.unknown < 400
    assert client.dbsize() == 0, "what was written for the check is gone"


@pytest.mark.services
@pytest.mark.parametrize("in_redis", [False, True], ids=["in memory", "in Redis"])
def test_regional_demand_reads_as_duckdb_says(client: redis.Redis, in_redis: bool) -> None:
    events = demand(400, 2)
    late = as_table(events[::17])
    in_time = as_table([one for number, one in enumerate(events) if number % 17])
    report = verify_requests(
        REGIONAL_DEMAND,
        as_table([*events, *events[:50]]),
        rows=feature_rows(REGIONAL_DEMAND, in_time),
        late=late,
        client=client if in_redis else None,
    )
    check(report, REGIONAL_DEMAND, 1_000)
    assert report.unknown > 50
    assert client.dbsize() == 0, "what was written for the check is gone"


@settings(deadline=None, max_examples=15)
@given(swipes(), st.integers(0, 99), st.sampled_from([None, 3, 30]))
def test_every_aggregate_of_random_rolling_events(events: Any, seed: int, ttl: int | None) -> None:
    of = VIEW
    if ttl is not None:
        of = replace(VIEW, features=tuple(replace(one, ttl=ttl * SECOND) for one in VIEW.features))
    check(verify_requests(of, swipe_table(events), reads=120, seed=seed), of, 120)


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@settings(deadline=None, max_examples=8)
@given(rides(), drivers(), st.sampled_from(["city", ("city", "zone")]), st.integers(0, 99))
def test_every_feature_of_random_windows(shape: Any, events: Any, known: Any, entity: Any, seed: int) -> None:
    of, lookups = view(shape, entity=entity), {"driver_of": table(Driver, known)}
    short = tuple(replace(one, ttl=20 * SECOND) if n % 2 else one for n, one in enumerate(of.features))
    of = replace(of, features=short)
    check(verify_requests(of, table(Ride, events), lookups=lookups, reads=80, seed=seed), of, 80)


@settings(deadline=None, max_examples=10)
@given(streams())
def test_demand_over_days(events: Any) -> None:
    check(verify_requests(REGIONAL_DEMAND, as_table(events), reads=100), REGIONAL_DEMAND, 100)


def wrong_feature(name: str, value: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [row | {name: value(row[name])} if n == 9 else row for n, row in enumerate(rows)]


EVENTS = demand(300, 3)


@pytest.mark.parametrize(
    ("plant", "counts"),
    [
        (wrong_feature("bookings", lambda value: value + 1), {"mismatched"}),
        (wrong_feature("trend", lambda value: value + 1e-3), {"mismatched"}),
        (wrong_feature("trend", lambda _: float("nan")), {"mismatched", "missing"}),
        (wrong_feature("conversion", lambda value: None if value else 1.0), {"mismatched"}),
        (lambda rows: [row for row in rows if row["region"] == "n"], {"missing"}),
        (lambda rows: [row | {"tenant": "u"} for row in rows], {"missing", "extra"}),
        (lambda rows: [row | {"bookings": -1, "sequence": 1} for row in rows], {"mismatched"}),
        (lambda rows: [row | {"window_end": row["window_end"] - 2 * MINUTE} for row in rows], {"mismatched"}),
        (lambda rows: [row | {"window_end": row["window_end"] + 2 * MINUTE} for row in rows], {"mismatched"}),
    ],
)  # fmt: skip
def test_rows_that_are_wrong_in_the_store_are_found(plant: Callable[[Rows], Rows], counts: set[str]) -> None:
    streamed = feature_rows(REGIONAL_DEMAND, as_table(EVENTS))
    planted = pa.Table.from_pylist(plant(streamed.to_pylist()), streamed.schema)
    report = verify_requests(REGIONAL_DEMAND, as_table(EVENTS), rows=planted, reads=3_000)
    assert not report.ok
    found = Counter[str]()
    for one in report.by_feature.values():
        found.update({"mismatched": one.mismatched, "missing": one.missing, "extra": one.extra})
    assert counts & {name for name, count in found.items() if count}


class Earlier(MemoryRollingStore):
    """Forgets what came at the asked time itself."""

    def read(self, tenant: str, entity: str, at: datetime, own: Any = None) -> ReadResult:
        return super().read(tenant, entity, at - timedelta(milliseconds=1), own)


class Deaf(MemoryRollingStore):
    """Does not count the request's own record."""

    def read(self, tenant: str, entity: str, at: datetime, own: Any = None) -> ReadResult:
        return super().read(tenant, entity, at)


class Stuck(MemoryRollingStore):
    """Says what was true at an entity's last event, as a stored value would."""

    def read(self, tenant: str, entity: str, at: datetime, own: Any = None) -> ReadResult:
        newest = super().read(tenant, entity, at).event_time
        return super().read(tenant, entity, newest or at, own)


class Forgetful(MemoryRollingStore):
    """Loses one batch in ten."""

    batches = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self.batches += 1
        if self.batches % 10:
            super().write(batch)


class Doubling(MemoryRollingStore):
    """Takes every repeat for another row."""

    rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self.rows += 1
        ids = pa.array([f"{id}-{self.rows}" for id in batch.column("id").to_pylist()])
        super().write(batch.set_column(batch.schema.get_field_index("id"), "id", ids))


class Mixing(MemoryRollingStore):
    """Knows no tenants."""

    def write(self, batch: pa.RecordBatch) -> None:
        super().write(batch.set_column(0, "tenant", pa.array(["t"] * batch.num_rows)))

    def read(self, tenant: str, entity: str, at: datetime, own: Any = None) -> ReadResult:
        return super().read("t", entity, at, own)


@pytest.mark.parametrize("broken", [Earlier, Deaf, Stuck, Forgetful, Doubling, Mixing])
def test_a_broken_rolling_store_is_found(
    broken: type[MemoryRollingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(5)
    events = swipe_table(
        [
            swipe(n, n / 2, card=chance.choice("ab"), tenant=chance.choice("tu"), cents=chance.randrange(99))
            for n in range(300)
        ]
    )
    assert verify_requests(VIEW, events, reads=300).ok
    monkeypatch.setattr(rolling_requests, "MemoryRollingStore", broken)
    report = verify_requests(VIEW, events, reads=300)
    assert not report.ok
    assert not report.by_feature["count_10s"].ok


def test_what_cannot_be_read_is_refused() -> None:
    lookup = replace(view(SHAPES[0]).lookups[0])
    rolling = replace(VIEW, lookups=(replace(lookup, on={"domain": "id"}),))
    with pytest.raises(DeclarationError, match="looks up"):
        verify_requests(rolling, swipe_table([swipe(0, 0)]))
    rows = feature_rows(REGIONAL_DEMAND, as_table(EVENTS)).drop_columns(["sequence"])
    with pytest.raises(UnknownName, match="sequence"):
        verify_requests(REGIONAL_DEMAND, as_table(EVENTS), rows=rows)
    nothing = verify_requests(VIEW, swipe_table([]))
    assert (nothing.reads, nothing.ok) == (0, True)


def test_requests_reach_edges_gaps_strangers_and_long_after() -> None:
    happened: Mapping[Any, Any] = {("t", "a"): [1_000, 50_000], ("u", "b"): [90_000]}
    found = draw(happened, [10_000], [{"x": 1}], number=2_000, seed=4)
    assert found == draw(happened, [10_000], [{"x": 1}], number=2_000, seed=4)
    assert found != draw(happened, [10_000], [{"x": 1}], number=2_000, seed=5)
    assert [one.at_ms for one in found] == sorted(one.at_ms for one in found)
    times = {one.at_ms for one in found if one.key == ("t", "a")}
    assert {at + edge for at in (1_000, 11_000, 50_000, 60_000) for edge in (-1, 0, 1)} <= times
    assert max(times) > 100_000
    assert min(times) < 1_000
    strangers = sum(one.key not in happened for one in found)
    assert 150 < strangers < 450
    assert 300 < sum(one.own is not None for one in found) < 900
    assert draw({}, [1], (), number=5, seed=0) == []
