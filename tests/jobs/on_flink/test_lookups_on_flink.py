"""Lookup joins on a real Flink: DuckDB's rows, with the reference table as it was when the events came by."""

import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa
import pytest
from confluent_kafka.admin import NewTopic

from core.settings import settings
from features.catalog.merchant_activity import MERCHANT_ACTIVITY
from features.compile.flink_windows import WindowedStream
from features.feature_rows import features_topic, field_name, late_topic
from features.history import compute
from features.lookups import Lookup
from features.view import FeatureView, Tumbling
from jobs.on_flink.submit import FlinkJob
from pipelines import references
from schemas.avro import schema_text
from schemas.broker import admin, producer
from schemas.catalog.purchases import Merchant, Purchase
from schemas.codec import RecordCodec
from schemas.keys import entity_of, key_of
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic
from stack.local import Stack
from tests.features.oracle import same
from tests.features.rides import KINDS, SECOND, Driver, Ride, table
from tests.features.rides import view as every_feature
from tests.jobs.on_flink.live import Live, java_parts, wait_for

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

HOUR = timedelta(hours=1)
BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=2)
QUIET = timedelta(seconds=3)
HOSTILE = "m|%25\n'`ü"


class Reference:
    """The topic of a lookup's table: what is written to it, and what has been read of it."""

    def __init__(self, lookup: Lookup) -> None:
        assert lookup.topic is not None
        self.lookup, self.topic = lookup, lookup.topic
        client = admin(settings())
        config = self.topic.config(min_insync=1)
        made = client.create_topics([NewTopic(self.topic.name, self.topic.partitions, 1, config=config)])
        made[self.topic.name].result(30)
        self.registry = SchemaRegistry(settings().registry.address)
        self.registry.register(self.topic.subject, schema_text(lookup.record.spec()))
        self.codec: RecordCodec[Record] = RecordCodec(lookup.record, self.registry, self.topic.subject)
        self.producer = producer(settings())
        self.messages = 0

    def put(self, *rows: Record) -> None:
        for row in rows:
            self._produce(key_of(row.tenant, getattr(row, row.spec().entity or "")), self.codec.encode(row))
        assert self.producer.flush(30) == 0

    def raw(self, key: str, value: bytes | None) -> None:
        self._produce(key, value)
        assert self.producer.flush(30) == 0

    def _produce(self, key: str, value: bytes | None) -> None:
        self.producer.produce(self.topic.name, key=key, value=value)
        self.messages += 1

    def table(self) -> pa.Table:
        return references.read(self.lookup, settings())

    def read_by(self, live: Live) -> bool:
        """Whether each parallel part of the job has read what was put, by the job's own count."""
        (job,) = live.running()
        found = []
        url = f"{settings().flink.address}/jobs/{job}"
        for vertex in httpx.get(url).json()["vertices"]:
            metrics = f"{url}/vertices/{vertex['id']}/subtasks/metrics"
            for metric in httpx.get(metrics).json():
                if ".millstream.reference." in metric["id"] and metric["id"].endswith(".messages"):
                    found += httpx.get(metrics, params={"get": metric["id"], "agg": "min"}).json()
        return bool(found) and all(one["min"] >= self.messages for one in found)


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
    """With topics of its own; that of the reference has another number of partitions than the others."""
    domain = f"t{uuid.uuid4().hex[:8]}"
    kept: Any = {"partitions": 3, "retention": timedelta(days=30)}
    (lookup,) = view.lookups
    topic = Topic(f"{domain}.reference.events.v1", lookup.record, partitions=2, cleanup="compact")
    view = replace(view, lookups=(replace(lookup, topic=topic),))
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
    found = compute(view, table(view.source, events), lookups={view.lookups[0].name: reference})
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
        wait_for("the job has read the changes", lambda: merchants.read_by(live), 120)
        send(live, [*purchases(dice, BEGIN + 6 * HOUR, 300), closing(BEGIN + 10 * HOUR)])
        after, border = merchants.table(), BEGIN + 6 * HOUR
        rows = rows_of(live, lambda: expected(live, after))
    wanted = [row for row in expected(live, before) if row["window_end"] <= border]
    wanted += [row for row in expected(live, after) if row["window_end"] > border]
    keys = ("tenant", "merchant_id", "window_end")
    wanted.sort(key=lambda row: tuple(row[key] for key in keys))
    assert len(wanted) > 300
    check(rows, wanted, keys)
    looked_up = [[(row["region"], row["large_baskets"]) for row in given] for given in (rows, wanted)]
    for reference in (before, after):
        looked_up.append([(row["region"], row["large_baskets"]) for row in expected(live, reference)])
    assert looked_up[0] == looked_up[1]
    assert looked_up[0] not in looked_up[2:], "the change shows, and only after it"
    check(early, [row for row in expected(live, before) if row["window_end"] <= BEGIN + 4 * HOUR], keys)
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
    with live.keeping(quiet=QUIET):
        rows = rows_of(live, lambda: expected(live, merchants.table()))
    check(rows, expected(live, merchants.table()), ("tenant", "merchant_id", "window_end"))
    assert {row["region"] for row in rows} == {"north"}


def drives(dice: random.Random, number: int) -> list[Ride]:
    return [
        Ride(
            tenant=dice.choice(["t", "t|"]),
            id=f"{n}",
            city=dice.choice(["a", "b|%"]),
            zone="",
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


def test_every_feature_and_keys_of_the_reference_are_duckdb_s(start: Start) -> None:
    dice = random.Random(7)
    view = every_feature(Tumbling(10 * SECOND), entity=("driver_of.level", "city"))
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


def test_more_rows_than_declared_stop_the_job_with_the_reason(start: Start) -> None:
    (lookup,) = MERCHANT_ACTIVITY.lookups
    live, merchants = start(replace(MERCHANT_ACTIVITY, lookups=(replace(lookup, most_rows=2),)))
    merchants.put(*(merchant("t", name, "small") for name in ("a", "b", "b", "c")))
    job = FlinkJob(live.stream, settings(), java_parts(settings())).submit(None)
    wait_for("the job says why", lambda: "has more than 2 rows" in live.rest.root_cause(job), 90)


def test_a_table_is_read_with_its_changes_and_deletions(stack: Stack) -> None:
    del stack
    name = f"t{uuid.uuid4().hex[:8]}.reference.events.v1"
    topic = Topic(name, Merchant, partitions=3, cleanup="compact")
    merchants = Reference(Lookup("merchant", Merchant, on={"merchant_id": "merchant_id"}, topic=topic))
    assert merchants.table().num_rows == 0
    rows = [merchant("t", f"m{n}", "small") for n in range(50)]
    merchants.put(*rows, *(merchant("t", f"m{n}", "large") for n in range(10)))
    for n in range(5):
        merchants.raw(key_of("t", f"m{n}"), None)
    merchants.put(merchant("t", "m0", "medium"))
    sizes = {row["merchant_id"]: row["size"] for row in merchants.table().to_pylist()}
    assert sizes == {f"m{n}": "small" for n in range(10, 50)} | {
        "m0": "medium", **{f"m{n}": "large" for n in range(5, 10)}
    }  # fmt: skip
