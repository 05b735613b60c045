"""Lookup joins on a real Flink: DuckDB's rows, with the reference table as it was when the events came by."""

import io
import json
import random
import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import httpx
import pyarrow as pa
import pytest

from core.settings import settings
from features.catalog.merchant_activity import MERCHANT_ACTIVITY
from features.compile.flink_windows import WindowedStream
from features.feature_rows import features_topic, field_name, late_topic
from features.lookups import Lookup
from features.offline.history import compute
from features.view import Count, Feature, FeatureView, Sum, Tumbling, field
from jobs.on_flink.submit import FlinkJob
from schemas.avro import schema_text
from schemas.catalog.purchases import Merchant, Purchase
from schemas.keys import entity_of, key_of
from schemas.topic import Topic
from stack.local import Stack
from tests.features.oracle import same
from tests.features.rides import KINDS, SECOND, Driver, Ride, table
from tests.features.rides import view as every_feature
from tests.jobs.on_flink.doorway import Doorway
from tests.jobs.on_flink.live import Live, java_parts, wait_for
from tests.jobs.on_flink.reference_topic import Reference

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

HOUR = timedelta(hours=1)
BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=2)
QUIET = timedelta(seconds=3)
HOSTILE = "m|%25\n'`ü"
KEYS = ("tenant", "merchant_id", "window_end")
Start = Callable[[FeatureView], tuple[Live, Reference]]


@pytest.fixture
def start(stack: Stack) -> Iterator[Start]:
    del stack
    made: list[Live] = []

    def begin(view: FeatureView) -> tuple[Live, Reference]:
        stream = stream_of(view)
        made.append(Live(settings(), stream))
        return made[-1], Reference(stream.view.lookups[0])

    try:
        yield begin
    finally:
        for live in made:
            live.close()


def stream_of(view: FeatureView) -> WindowedStream:
    """With topics of its own; that of the lookups has another number of partitions than the others."""
    domain = f"t{uuid.uuid4().hex[:8]}"
    kept: Any = {"partitions": 3, "retention": timedelta(days=30)}
    record = view.lookups[0].record
    topic = Topic(f"{domain}.reference.events.v1", record, partitions=2, cleanup="compact")
    view = replace(view, lookups=tuple(replace(lookup, topic=topic) for lookup in view.lookups))
    return WindowedStream(
        domain,
        Topic(f"{domain}.source.events.v1", view.source, **kept),
        view,
        features_topic(domain, view, **kept),
        late_topic(domain, view, **kept),
    )


def merchant(tenant: str, name: str, size: str, region: str = "north") -> Merchant:
    return Merchant(
        tenant=tenant, id=name, merchant_id=name, region=region, size=size, changed_at=BEGIN - HOUR
    )


def purchases(dice: random.Random, begin: datetime, number: int) -> list[Purchase]:
    """One each 20 s, of known merchants, of some that only one tenant knows, and of one that none does."""
    return [
        Purchase(
            tenant=dice.choice(["t", "t|"]),
            id=f"{begin:%H}-{n}",
            merchant_id=dice.choice(["corner", "mall", "new", "gone", "never", HOSTILE]),
            customer_id=dice.choice(["a", "b", "c"]),
            occurred_at=begin + n * 20 * SECOND - dice.choice([0, 0, 3]) * SECOND,
            amount_cents=dice.choice([500, 10_000, 49_999, 50_000, 200_000]),
            items=dice.randint(1, 5),
        )
        for n in range(number)
    ]


def closing(begin: datetime) -> Purchase:
    """After all windows of what was sent, so that they close."""
    return Purchase(
        tenant="t", id=f"{begin}", merchant_id="never", customer_id="a", occurred_at=begin, amount_cents=1,
        items=1,
    )  # fmt: skip


def read_by(live: Live, reference: Reference) -> bool:
    """Whether each parallel part of the job has read what was put, by the job's own count."""
    (job,) = live.running()
    found = []
    url = f"{settings().flink.address}/jobs/{job}"
    for vertex in httpx.get(url).json()["vertices"]:
        metrics = f"{url}/vertices/{vertex['id']}/subtasks/metrics"
        for metric in httpx.get(metrics).json():
            if ".millstream.reference." in metric["id"] and metric["id"].endswith(".messages"):
                found += httpx.get(metrics, params={"get": metric["id"], "agg": "min"}).json()
    return bool(found) and all(one["min"] >= reference.messages for one in found)


def send(live: Live, events: list[Any]) -> None:
    """Each published before the next one is sent, so that partitions keep together."""
    for event in events:
        live.send([event])


def in_time(live: Live) -> list[Any]:
    """What was sent, each id once, less what came out late."""
    late = {(one.tenant, one.id) for one, _ in live.read(live.stream.late)}
    first = {(one.tenant, one.id): one for one in reversed(live.sent)}
    assert len(late) < len(first) / 20
    return [one for key, one in first.items() if key not in late]


def expected(live: Live, reference: pa.Table) -> list[dict[str, Any]]:
    """DuckDB's rows of the windows that the last event closed."""
    view, events = live.stream.view, in_time(live)
    until = max(getattr(one, view.time) for one in events)
    references = {lookup.name: reference for lookup in view.lookups}
    found = compute(view, table(view.source, events), lookups=references)
    return [row for row in found.to_pylist() if row["window_end"] <= until]


def rows_of(live: Live, wanted: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """As many rows as are wanted, and no more, with DuckDB's columns and in its order."""
    view, topic = live.stream.view, live.stream.rows
    seen: list[int] = []

    def settled() -> bool:
        seen.append(live.count(topic))
        return len(seen) > 10 and 0 < seen[-1] == seen[-10] and seen[-1] >= len(wanted())

    wait_for("as many rows as DuckDB has", settled, 120)
    out = []
    for row, _ in live.read(topic):
        own = {name: getattr(row, field_name(name)) for name in view.entity_fields}
        assert row.entity == entity_of(list(own.values()))
        given = {name: getattr(row, name) for name in ("window_start", "window_end", *view.feature_names)}
        out.append({"tenant": row.tenant} | own | given)
    keys = ("tenant", *view.entity_fields, "window_end")
    return sorted(out, key=lambda row: tuple(row[key] for key in keys))


def check(found: list[dict[str, Any]], wanted: list[dict[str, Any]], keys: tuple[str, ...]) -> None:
    named = [[tuple(row[key] for key in keys) for row in rows] for rows in (found, wanted)]
    assert named[0] == named[1]
    for row, right in zip(found, wanted, strict=True):
        same(row, right)


def test_merchant_activity_uses_the_rows_of_the_time(start: Start) -> None:
    dice = random.Random(5)
    live, merchants = start(MERCHANT_ACTIVITY)
    merchants.put(
        merchant("t", "corner", "large"),
        merchant("t", "corner", "small"),  # the newest counts
        merchant("t|", "corner", "large", "south"),  # another tenant's of the same name
        merchant("t", "mall", "medium"),
        merchant("t", HOSTILE, "small", "a,b|%"),
        merchant("t", "gone", "small"),
    )
    merchants.raw(key_of("t", "gone"), None)
    merchants.raw(key_of("t", "mall"), b"no Avro")
    merchants.raw(key_of("t", "mall"), b"\0\0\xff\xff\xff of no known schema")
    before = merchants.table()
    with live.keeping(quiet=QUIET):
        send(live, [*purchases(dice, BEGIN, 300), closing(BEGIN + 4 * HOUR)])
        early = rows_of(live, lambda: expected(live, before))
        merchants.put(
            merchant("t", "corner", "medium", "west"),
            merchant("t", "new", "small"),
            merchant("t|", HOSTILE, "large"),
        )
        merchants.raw(key_of("t|", "corner"), None)
        wait_for("the job has read the changes", lambda: read_by(live, merchants), 120)
        send(live, [*purchases(dice, BEGIN + 6 * HOUR, 300), closing(BEGIN + 10 * HOUR)])
        after, border = merchants.table(), BEGIN + 6 * HOUR
        rows = rows_of(live, lambda: expected(live, after))
    wanted = [row for row in expected(live, before) if row["window_end"] <= border]
    wanted += [row for row in expected(live, after) if row["window_end"] > border]
    wanted.sort(key=lambda row: tuple(row[key] for key in KEYS))
    assert len(wanted) > 300
    check(rows, wanted, KEYS)
    looked_up = [[(row["region"], row["large_baskets"]) for row in given] for given in (rows, wanted)]
    for reference in (before, after):
        looked_up.append([(row["region"], row["large_baskets"]) for row in expected(live, reference)])
    assert looked_up[0] == looked_up[1]
    assert looked_up[0] not in looked_up[2:], "the change shows, and only after it"
    check(early, [row for row in expected(live, before) if row["window_end"] <= BEGIN + 4 * HOUR], KEYS)
    known = {(row["tenant"], row["merchant_id"]) for row in early if row["region"] is not None}
    assert known == {("t", "corner"), ("t|", "corner"), ("t", "mall"), ("t", HOSTILE)}
    assert {row["large_baskets"] for row in early if row["merchant_id"] == "never"} == {0}


def test_no_event_is_ahead_of_the_rows_that_were_there_at_the_start(start: Start) -> None:
    dice = random.Random(3)
    live, merchants = start(MERCHANT_ACTIVITY)
    names = ("corner", "mall", "new", "gone", "never", HOSTILE)
    merchants.put(*(merchant("t", f"other {n}", "small") for n in range(60_000)))
    merchants.put(*(merchant(tenant, name, "small") for tenant in ("t", "t|") for name in names))
    send(live, [*purchases(dice, BEGIN, 100), closing(BEGIN + 4 * HOUR)])  # before there is a job
    border = BEGIN + 4 * HOUR
    with live.keeping(quiet=QUIET):
        before = rows_of(live, lambda: expected(live, merchants.table()))
    check(before, expected(live, merchants.table()), KEYS)
    assert {row["region"] for row in before} == {"north"}
    # stopped with a savepoint, and started anew
    merchants.put(*(merchant("t", f"other {n}", "large") for n in range(10_000)))
    merchants.put(*(merchant(tenant, name, "large", "south") for tenant in ("t", "t|") for name in names))
    send(live, [*purchases(dice, BEGIN + 6 * HOUR, 100), closing(BEGIN + 10 * HOUR)])
    with live.keeping(quiet=QUIET):
        rows = rows_of(live, lambda: expected(live, merchants.table()))
    after = [row for row in expected(live, merchants.table()) if row["window_end"] > BEGIN + 6 * HOUR]
    check([row for row in rows if row["window_end"] > BEGIN + 6 * HOUR], after, KEYS)
    check([row for row in rows if row["window_end"] <= border], before, KEYS)
    assert {row["region"] for row in after} == {"south"}


def drives(dice: random.Random, number: int) -> list[Ride]:
    return [
        Ride(
            tenant=dice.choice(["t", "t|"]),
            id=f"{n}",
            city=dice.choice(["a", "b|%"]),
            zone=dice.choice(["", "1", "2", "3"]),
            at=BEGIN + n * timedelta(milliseconds=200),
            kind=dice.choice([None, *KINDS]),
            fare=dice.choice([None, -3, 0, 7, 12, 40_000]),
            seats=dice.randint(1, 5),
            tip=dice.choice([None, 0.125, 0.75, 2.5]),
            shared=dice.choice([None, True, False]),
            driver=dice.choice([None, "1", "2", "3", "4"]),
        )
        for n in range(number)
    ]


def test_every_feature_and_keys_of_two_lookups_are_duckdb_s(start: Start) -> None:
    dice = random.Random(7)
    view = every_feature(Tumbling(10 * SECOND), entity=("driver_of.level", "city"))
    other = Lookup("zone_of", Driver, on={"zone": "id"})
    same_level = Count(where=field("zone_of.level") == field("driver_of.level"))
    view = replace(
        view,
        lookups=(*view.lookups, other),
        features=(
            *view.features,
            Feature("zone_fees", Sum("zone_of.fee"), unit="x"),
            Feature("same_level", same_level, unit="rides"),
        ),
    )
    live, drivers = start(view)
    drivers.put(
        *(
            Driver(
                tenant=tenant,
                id=id,
                since=BEGIN,
                level=dice.choice(["gold", "new|"]),
                fee=dice.choice([None, 2, 5]),
                rating=dice.choice([None, 0.25, 1.0]),
                active=dice.choice([None, True, False]),
            )
            for tenant in ("t", "t|")
            for id in ("1", "2")
        ),
        Driver(tenant="t", id="3", since=BEGIN, level=None, fee=3),  # known, and of no level
    )
    reference = drivers.table()
    with live.keeping(quiet=QUIET):
        send(live, [*drives(dice, 600), Ride(tenant="t", id="end", city="a", zone="", at=BEGIN + HOUR)])
        rows = rows_of(live, lambda: expected(live, reference))
    wanted = expected(live, reference)
    assert len(wanted) > 40
    check(rows, wanted, ("tenant", "driver_of.level", "city", "window_end"))
    assert any(row["same_level"] for row in rows)


def said_by(live: Live, job: str) -> str:
    """All that the job failed with so far."""
    url = f"{settings().flink.address}/jobs/{job}/exceptions"
    entries = httpx.get(url, params={"maxExceptions": 20}).json()["exceptionHistory"]["entries"]
    return "\n".join(entry["stacktrace"] for entry in entries)


def test_more_rows_than_declared_stop_the_job_with_the_reason(start: Start) -> None:
    (lookup,) = MERCHANT_ACTIVITY.lookups
    live, merchants = start(replace(MERCHANT_ACTIVITY, lookups=(replace(lookup, most_rows=2),)))
    merchants.put(*(merchant("t", name, "small") for name in ("a", "b", "b")))
    job = FlinkJob(live.stream, settings(), java_parts(settings())).submit(None)
    wait_for(
        "the job runs", lambda: any(one.tasks_running for one in live.rest.jobs(live.stream.pipeline)), 90
    )
    merchants.put(merchant("t", "c", "small"))
    number = iter(range(1_000))

    def failed() -> bool:
        send(live, [closing(BEGIN + next(number) * SECOND)])
        return "is not followed any more" in said_by(live, job)

    wait_for("an event tells", failed, 90)
    wait_for("it does not start again", lambda: said_by(live, job).count("has more than 2 rows") > 1, 90)


def test_a_reference_that_was_never_made_stops_the_job_with_the_reason(start: Start) -> None:
    live, _ = start(MERCHANT_ACTIVITY)
    (lookup,) = live.stream.view.lookups
    nowhere = Topic("t0.nowhere.events.v1", Merchant, cleanup="compact")
    view = replace(live.stream.view, lookups=(replace(lookup, topic=nowhere),))
    live.registry.register(nowhere.subject, schema_text(Merchant.spec()))
    job = FlinkJob(replace(live.stream, view=view), settings(), java_parts(settings())).submit(None)
    wait_for("the job says why", lambda: "there is no reference topic" in said_by(live, job), 90)


def of_a_later_schema(live: Live, reference: Reference, row: Merchant) -> bytes:
    """The row as a newer program writes it: with a field more, under an id that nobody has asked for yet."""
    schema = json.loads(schema_text(Merchant.spec()))
    schema["fields"].append({"name": "note", "type": ["null", "string"], "default": None})
    id = reference.registry.register(reference.topic.subject, json.dumps(schema))
    value = io.BytesIO()
    fields = {name: getattr(row, name) for name in row.spec().names}
    fastavro.schemaless_writer(value, fastavro.parse_schema(schema), fields | {"note": "ü"})
    return struct.pack(">bI", 0, id) + value.getvalue()


def test_a_registry_that_is_away_holds_the_job_back_and_loses_nothing(stack: Stack) -> None:
    """A reference row of a schema that the job does not know cannot be read now, but later: no event goes by
    without it."""
    dice, here = random.Random(11), settings()
    del stack
    with Doorway(here.registry.port) as doorway:
        registry = here.registry.model_copy(update={"port": doorway.port})
        live = Live(here.model_copy(update={"registry": registry}), stream_of(MERCHANT_ACTIVITY))
        merchants = Reference(live.stream.view.lookups[0])
        merchants.put(*(merchant(tenant, "corner", "small") for tenant in ("t", "t|")))
        before = merchants.table()
        try:
            with live.keeping(quiet=QUIET) as probe:
                send(live, [*purchases(dice, BEGIN, 100), closing(BEGIN + 4 * HOUR)])
                rows_of(live, lambda: expected(live, before))
                (job,) = live.running()
                newer = of_a_later_schema(live, merchants, merchant("t", "corner", "large", "south"))
                doorway.shut()
                merchants.raw(key_of("t", "corner"), newer)
                number = iter(range(1_000))

                def failed() -> bool:
                    send(live, [closing(BEGIN + 4 * HOUR + next(number) * SECOND)])
                    return "is not followed any more" in said_by(live, job)

                wait_for("an event tells", failed, 90)
                wait_for("why", lambda: "cannot be read" in said_by(live, job), 30)
                send(live, [*purchases(dice, BEGIN + 6 * HOUR, 100), closing(BEGIN + 10 * HOUR)])
                doorway.open()
                wait_for("the job is back", lambda: probe.readiness()[0], 120)
                after = merchants.table()
                rows = rows_of(live, lambda: expected(live, after))
        finally:
            live.close()
    border = BEGIN + 6 * HOUR
    wanted = [row for row in expected(live, before) if row["window_end"] <= border]
    wanted += [row for row in expected(live, after) if row["window_end"] > border]
    wanted.sort(key=lambda row: tuple(row[key] for key in KEYS))
    once = [row for place, row in enumerate(rows) if not place or row != rows[place - 1]]
    check(once, wanted, KEYS)  # a row whose checkpoint was not complete comes again, the same
    assert {row["region"] for row in wanted if row["tenant"] == "t"} == {None, "north", "south"}
