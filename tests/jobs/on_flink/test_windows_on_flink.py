"""Windowed views on a real Flink: the rows that DuckDB computes from the events in time, each once."""

import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from core.settings import settings
from features.aggregates import reads
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.compile.flink_windows import WindowedStream
from features.feature_rows import features_topic, late_topic, row_id
from features.filters import columns_of
from features.offline.history import compute
from features.view import Count, Cumulating, Derived, Feature, FeatureView, Hopping, Tumbling, field
from features.windows import Windowed
from schemas.catalog.user_events import UserEvent
from schemas.keys import entity_of
from schemas.record import Record
from schemas.topic import Topic
from stack.local import Stack
from tests.features.oracle import same
from tests.features.rides import FILTERS, KINDS, SECOND, Ride, table
from tests.features.rides import view as every_feature
from tests.jobs.on_flink.live import Live, wait_for

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

MILLI = timedelta(milliseconds=1)
DAY = timedelta(days=1)
BEGIN = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(days=9)
QUIET = timedelta(seconds=3)
HOSTILE = "x\n;\n'y\\, \"z` --"
SHAPES = (Tumbling(10 * SECOND), Hopping(20 * SECOND, 5 * SECOND), Cumulating(30 * SECOND, 10 * SECOND))
Start = Callable[[FeatureView], Live]


@pytest.fixture
def start(stack: Stack) -> Iterator[Start]:
    del stack
    made: list[Live] = []

    def begin(view: FeatureView) -> Live:
        made.append(Live(settings(), stream_of(view)))
        return made[-1]

    try:
        yield begin
    finally:
        for live in made:
            live.close()


def stream_of(view: FeatureView) -> WindowedStream:
    domain = f"t{uuid.uuid4().hex[:8]}"
    kept: Any = {"partitions": 3, "retention": timedelta(days=30)}
    return WindowedStream(
        domain,
        Topic(f"{domain}.rides.events.v1", view.source, **kept),
        view,
        features_topic(domain, view, **kept),
        late_topic(domain, view, **kept),
    )


def of_the_record(window: Windowed, **more: Any) -> FeatureView:
    """Every aggregate, filter and derived feature that reads no lookup."""
    given = every_feature(window, **more)
    features = [
        feature
        for feature in given.features
        if isinstance(feature.definition, Derived)
        or not any("." in name for name in reads(feature.definition))
    ]
    features += [
        Feature(f"taken_{number}", Count(where=where), unit="rides")
        for number, where in enumerate((*FILTERS, field("kind") == HOSTILE))
        if where is not None and not any("." in name for name in columns_of(where))
    ]
    return replace(given, features=tuple(features), lookups=())


def rides(dice: random.Random, number: int) -> list[Ride]:
    """Five a second, up to 900 ms behind (the bound is a second), with minutes of nothing in some cities."""
    out = []
    for n in range(number):
        at = BEGIN + (n * 200 - dice.choice([0, 0, 150, 400])) * MILLI
        if dice.random() < 0.3:
            at = at.replace(microsecond=at.microsecond // 500_000 * 500_000)  # equal times are common
        minute = n * 200 // 60_000
        cities = ["a", "b|%", "ü"] if minute % 2 else ["a"]
        out.append(
            Ride(
                tenant=dice.choice(["t", "t|"]),
                id=f"{dice.choice(['', 'ü|', 'x,'])}{n}",
                city=dice.choice(cities),
                zone=dice.choice(["", "a|"]),
                at=at,
                kind=dice.choice([None, *KINDS, HOSTILE]),
                fare=dice.choice([None, -40_000, -3, 0, 7, 12, 40_000]),
                seats=dice.randint(1, 5),
                tip=dice.choice([None, 0.1, 0.1, 0.7, 2.5, -1e-3]),
                shared=dice.choice([None, True, False]),
            )
        )
    return out


def late_one(ride: Ride, n: int) -> Ride:
    """One of the same entity, and so of the same partition, from 30 s before."""
    ids = {"id": f"late-{n}", "at": ride.at - 30 * SECOND}
    return Ride(**{name: getattr(ride, name) for name in Ride.spec().names} | ids)


def expected(view: FeatureView, events: list[Record], until: datetime) -> list[dict[str, Any]]:
    """DuckDB's rows of the windows that the watermark `until` has closed."""
    found: pa.Table = compute(view, table(view.source, events))
    return [row for row in found.to_pylist() if row["window_end"] - MILLI <= until]


def one_by_one(live: Live, events: list[Any]) -> None:
    """Each published before the next one is sent: the clock would tick a partition that is behind
    the others by more than the bound, and what comes to it then is late."""
    for event in events:
        live.send([event])


def rows_of(live: Live, count: int) -> list[dict[str, Any]]:
    """The rows that came out, in DuckDB's order and with its columns; repeats have to be equal, and are there
    once. What is a row's own is checked."""
    view, topic = live.stream.view, live.stream.rows
    wait_for(f"{count} rows", lambda: live.count(topic) >= count, 120)
    wait_for("no more rows", quiet(lambda: live.count(topic)), 60)
    keys = ("tenant", *view.entity_fields, "window_end")
    out: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row, _ in live.read(topic):
        entity = entity_of([getattr(row, name) for name in view.entity_fields])
        assert (row.entity, row.sequence, row.id) == (entity, 0, row_id(entity, row.window_end, 0))
        names = (*keys[:-1], "window_start", "window_end", *view.feature_names)
        values = {name: getattr(row, name) for name in names}
        same(out.setdefault((row.tenant, row.id), values), values)
    return sorted(out.values(), key=lambda row: tuple(row[key] for key in keys))


def quiet(value: Callable[[], int]) -> Callable[[], bool]:
    """Whether the value is that of ten calls before."""
    seen: list[int] = []

    def done() -> bool:
        seen.append(value())
        return len(seen) > 10 and seen[-1] == seen[-10]

    return done


def check_rows(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    keys = ("tenant", "city", "zone", "region", "window_end")
    named = [[tuple(row.get(key) for key in keys) for row in rows] for rows in (found, wanted)]
    assert named[0] == named[1]
    for row, right in zip(found, wanted, strict=True):
        same(row, right)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_every_feature_of_every_window_is_duckdb_s(start: Start, shape: Windowed) -> None:
    dice = random.Random(type(shape).__name__)
    entity: Any = ("city", "zone") if isinstance(shape, Tumbling) else "city"
    view = of_the_record(shape, where=dice.choice(FILTERS[1:8]), entity=entity)
    live = start(view)
    in_time = rides(dice, 1_500)
    end = BEGIN + 1_500 * 200 * MILLI
    last = Ride(tenant="t", id="last", city="a", zone="", at=end)
    late = []
    with live.keeping(quiet=QUIET):
        stream: list[Ride] = []
        for n, ride in enumerate(in_time):
            stream.append(ride)
            if dice.random() < 0.1:
                stream.append(dice.choice(in_time[max(0, n - 50) : n + 1]))  # again, at once or later
            if dice.random() < 0.02:
                late.append(late_one(ride, n))
                stream.append(late[-1])
        one_by_one(live, [*stream, last])
        wanted = expected(view, [*in_time, last], end)
        found = rows_of(live, len(wanted))
    assert len(wanted) > 100
    check_rows(found, wanted)
    assert live.count(live.stream.rows) == len(wanted), "each row once"
    came_late = [record for record, _ in live.read(live.stream.late)]
    assert sorted(came_late, key=lambda one: one.id) == sorted(late, key=lambda one: one.id)


def test_regional_demand_compares_with_yesterday_and_last_week_across_a_savepoint(start: Start) -> None:
    dice = random.Random(11)
    live = start(REGIONAL_DEMAND)
    events = [
        UserEvent(
            tenant=dice.choice(["t", "u"]),
            id=f"{day}-{n}",
            user_id="u",
            region=dice.choice(["north", "south|%"]),
            kind=dice.choice(["search", "search", "booking", "cancel", "other"]),
            occurred_at=BEGIN + day * DAY + n * 2 * SECOND,
        )
        for day in (0, 1, 6, 7, 8)
        for n in range(200)
    ]
    half = 500  # the first 100 of day 6
    last = replace_event(events[-1], id="last", occurred_at=BEGIN + 8 * DAY + timedelta(minutes=10))
    with live.keeping(quiet=QUIET):
        one_by_one(live, events[:half])
        first = expected(REGIONAL_DEMAND, events[:half], events[half - 1].occurred_at)
        check_rows(rows_of(live, len(first)), first)
    with live.keeping(quiet=QUIET):
        one_by_one(live, [*events[half:], events[0], last])
        wanted = expected(REGIONAL_DEMAND, [*events, last], last.occurred_at)
        check_rows(rows_of(live, len(wanted)), wanted)
    assert any(row["seasonality_day"] for row in wanted)
    assert any(row["seasonality_week"] for row in wanted)
    assert live.count(live.stream.late) == 0


def replace_event(event: UserEvent, **changes: Any) -> UserEvent:
    return UserEvent(**{name: getattr(event, name) for name in UserEvent.spec().names} | changes)
