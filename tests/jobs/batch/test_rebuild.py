"""The online store in a real Redis, emptied and made again: every read is what it was."""

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import redis

from core.clock import ManualClock, to_millis
from core.errors import DeclarationError, Unavailable
from features.feature_rows import feature_record
from features.offline.out_of_core import Limits
from features.online.client import connect
from features.online.layout import layout_of
from features.online.packed_reader import PackedReader
from features.online.packed_redis import RedisPackedValues
from features.online.packed_writer import PackedRow, PackedWriter
from features.online.rolling import RollingStore
from features.online.rolling_restore import RollingRestore
from features.view import Count, Feature, FeatureView, Last, Mean, Sum, Tumbling
from jobs.batch import rebuild as job
from jobs.batch.rebuild import rebuild_events, rebuild_windows
from schemas.codec import arrow_schema
from tests.features.redis_server import RedisServer, own_redis
from tests.features.rides import SECOND, Ride
from tests.features.views import BEGIN, SCHEMA, VIEW, Swipe

pytestmark = pytest.mark.services

NOW = datetime(2026, 4, 1, 12, tzinfo=UTC)
DEMAND = FeatureView(
    name="demand",
    version=1,
    source=Ride,
    entity=("city", "zone"),
    disorder=SECOND,
    window=Tumbling(60 * SECOND),
    features=(
        Feature("count", Count(), unit="rides", empty=0),
        Feature("last_kind", Last("kind"), unit="kind"),
        Feature("tips", Sum("tip"), unit="x"),
        Feature("mean_fare", Mean("fare"), unit="x", empty=-1, ttl=timedelta(minutes=3)),
    ),
    ttl=timedelta(minutes=10),
)
LAYOUT = layout_of(DEMAND)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    connection = connect(server.settings)
    connection.flushall()
    yield connection
    connection.close()


def feature_rows(number: int) -> list[dict[str, Any]]:
    """Windows of the last quarter of an hour, in no order; some corrected, some twice or thrice."""
    dice = random.Random(5)
    rows = []
    for city in [f"c{n}|" for n in range(40)]:
        for back in dice.sample(range(15), number):
            end = NOW - timedelta(minutes=back)
            for sequence in range(dice.choice([1, 1, 1, 3])):
                rows.append(
                    {
                        "tenant": dice.choice(["t", "u"]), "id": f"{city}{back}{sequence}", "city": city,
                        "zone": "z", "entity": f"{city.replace('|', '%7C')}|z",
                        "window_start": end - timedelta(minutes=1), "window_end": end, "sequence": sequence,
                        "count": dice.randrange(99), "last_kind": dice.choice([None, "ü'"]),
                        "tips": dice.choice([None, 0.5]), "mean_fare": dice.random(),
                    }
                )  # fmt: skip
    dice.shuffle(rows)
    return rows


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=arrow_schema(feature_record(DEMAND).spec()))


def live(writer: PackedWriter, rows: list[dict[str, Any]]) -> None:
    """What the running writer does with rows that Redis has not forgotten."""
    writer.write(
        [
            PackedRow(
                row["tenant"], row["entity"], to_millis(row["window_end"]), row["sequence"],
                [row[name] for name in DEMAND.feature_names],
            )
            for row in rows
            if row["window_end"] >= NOW - DEMAND.ttl
        ]
    )  # fmt: skip


def reads(client: redis.Redis, rows: list[dict[str, Any]]) -> list[Any]:
    reader = PackedReader(RedisPackedValues(client), ManualClock(at=NOW))
    entities = sorted({row["entity"] for row in rows})
    return [reader.read_batch(LAYOUT, tenant, entities).to_pylist() for tenant in ("t", "u")]


def test_windows_read_as_before_the_loss(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 16)
    rows = feature_rows(3)
    writer = PackedWriter(RedisPackedValues(client), LAYOUT)
    live(writer, rows)
    before = reads(client, rows)
    assert {status for part in before for row in part for status in row["status"].values()} == {
        "fresh", "stale", "expired", "missing",
    }  # fmt: skip
    client.flushall()
    table = as_table(rows)
    clock = ManualClock(at=NOW)
    done = rebuild_windows(DEMAND, [table.slice(0, 50), table.slice(50)], writer, clock=clock)
    assert reads(client, rows) == before
    assert (done.rows, done.written, done.older, done.refused) == (done.rows, done.rows, 0, 0)
    assert done.rows == len(client.keys("*")) > 0  # type: ignore[arg-type]
    again = rebuild_windows(DEMAND, [table], writer, clock=clock)
    assert (again.written, reads(client, rows)) == (done.rows, before)


def test_a_newer_value_of_a_running_writer_stays(client: redis.Redis) -> None:
    rows = feature_rows(3)
    writer = PackedWriter(RedisPackedValues(client), LAYOUT)
    newer = [row | {"sequence": 9, "window_end": NOW, "count": 777} for row in rows[:20]]
    live(writer, newer)
    done = rebuild_windows(DEMAND, [as_table(rows)], writer, clock=ManualClock(at=NOW))
    alive = [row for row in rows if row["window_end"] >= NOW - DEMAND.ttl]
    both = [{(row["tenant"], row["entity"]) for row in some} for some in (newer, alive)]
    assert done.older == len(both[0] & both[1]) > 0
    counts = [row["count"] for part in reads(client, newer[:1]) for row in part]
    assert 777 in counts


def test_nothing_to_rebuild(client: redis.Redis) -> None:
    writer = PackedWriter(RedisPackedValues(client), LAYOUT)
    assert rebuild_windows(DEMAND, [as_table([])], writer, clock=ManualClock(at=NOW)).rows == 0
    assert rebuild_windows(DEMAND, [], writer, clock=ManualClock(at=NOW)).rows == 0
    assert rebuild_events(VIEW, [], RollingRestore(client, VIEW), clock=ManualClock()).rows == 0
    with pytest.raises(DeclarationError, match="rebuild_events"):
        rebuild_windows(VIEW, [], writer, clock=ManualClock())


def swipes(number: int) -> list[Swipe]:
    """Five minutes of some cards, two of them busy and one silent since the start; many at equal times."""
    dice = random.Random(9)
    found = [
        Swipe(
            tenant=dice.choice(["t", "u"]), id=str(n), card=dice.choice(["a", "a", "b|", "c", "d"]),
            at=BEGIN + timedelta(milliseconds=dice.randrange(0, 300_000, 50)),
            cents=dice.randrange(-99, 999), channel=dice.choice([None, 3]),
            domain=dice.choice([None, "x", "y"]), weight=dice.choice([None, 0.25]), trusted=None,
        )
        for n in range(number)
    ]  # fmt: skip
    silent = replace_all(found[:3], card="silent", at=BEGIN)
    return sorted([*found, *silent], key=lambda one: one.at)


def replace_all(given: list[Swipe], **changes: Any) -> list[Swipe]:
    names = Swipe.spec().names
    return [
        Swipe(**{name: getattr(one, name) for name in names} | changes | {"id": f"{one.id}'"})
        for one in given
    ]


def events(given: list[Swipe]) -> pa.Table:
    return pa.Table.from_pylist(
        [{name: getattr(one, name) for name in SCHEMA.names} for one in given], schema=SCHEMA
    )


def write(store: RollingStore, given: list[Swipe]) -> None:
    for batch in events(given).to_batches(max_chunksize=100):
        store.write(batch)


def answers(store: RollingStore, until: datetime) -> list[Any]:
    return [
        store.read(tenant, card, until + timedelta(seconds=later))
        for tenant in ("t", "u")
        for card in ("a", "b|", "c", "d", "nobody")
        for later in (0, 1, 15, 59, 3_600)
    ]


def test_rolling_rows_read_as_before_the_loss(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 64)
    given = swipes(1_500)
    store = RollingStore(client, VIEW)
    write(store, given)
    before = answers(store, given[-1].at)
    client.flushall()
    shuffled = random.Random(2).sample(given, len(given))
    parts = [events(shuffled[:700]), events(shuffled[690:])]
    done = rebuild_events(
        VIEW, parts, RollingRestore(client, VIEW), clock=ManualClock(), limits=Limits(threads=1)
    )
    assert answers(store, given[-1].at) == before
    assert 0 < done.rows < len(given), "what is older than the time to live is left out"
    assert store.read("t", "silent", given[-1].at).event_time is None
    rebuild_events(VIEW, parts, RollingRestore(client, VIEW), clock=ManualClock())
    assert answers(store, given[-1].at) == before


def test_no_row_is_lost_where_rows_are_folded(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_batches = job._batches

    def small_batches(connection: Any, query: str) -> Iterator[pa.RecordBatch]:
        for batch in whole_batches(connection, query):  # DuckDB gives at least 2,048 rows at a time
            yield from (batch.slice(begin, 10) for begin in range(0, batch.num_rows, 10))

    monkeypatch.setattr(job, "_batches", small_batches)
    given = replace_all(swipes(600), tenant="t", card="busy")
    whole = [one.at.replace(microsecond=0) for one in given]  # several of each time, in one batch or in two
    given = [replace_all([one], at=at)[0] for one, at in zip(given, whole, strict=True)]
    given = [one for one in given if one.at >= given[-1].at - VIEW.ttl]
    store = RollingStore(client, VIEW, cap=16, resolution=timedelta(seconds=1))
    write(store, given[-7:])  # a running writer has been here already
    restore = RollingRestore(client, VIEW, cap=16, resolution=timedelta(seconds=1))
    done = rebuild_events(VIEW, [events(given)], restore, clock=ManualClock())
    assert done.rows == len(given)
    at = given[-1].at
    found = store.read("t", "busy", at)
    for seconds in (10, 60):
        inside = [one for one in given if one.at >= at - timedelta(seconds=seconds)]
        assert found.values[f"count_{seconds}s"] == len(inside) > 16
    assert not found.truncated, "tiles are of whole seconds, as times are"


def test_beside_a_running_writer_each_row_is_there_once(client: redis.Redis) -> None:
    given = swipes(1_500)
    whole = RollingStore(client, replace(VIEW, name="whole"))
    write(whole, given)
    right = answers(whole, given[-1].at)
    store = RollingStore(client, VIEW)
    writer = threading.Thread(target=write, args=(RollingStore(client, VIEW), given[1_000:]))
    writer.start()
    rebuild_events(VIEW, [events(given[:1_200])], RollingRestore(client, VIEW), clock=ManualClock())
    writer.join(30)
    assert answers(store, given[-1].at) == right


TINY: Any = {"cap": 16, "resolution": timedelta(seconds=1)}


def busy(number: int) -> list[Swipe]:
    """Two cards only, at whole seconds, some of them equal, so that tiles of a second cut no answer."""
    given = swipes(number)
    moved = [
        replace_all([one], at=one.at.replace(microsecond=0), card=one.card[0])[0]
        for one in given
        if one.card != "silent"
    ]
    return [one for one in moved if one.card in "ab" and one.at >= moved[-1].at - VIEW.ttl]


def check_values(client: redis.Redis, given: list[Swipe]) -> None:
    """What the store says is what one says that holds every row apart."""
    whole = RollingStore(client, replace(VIEW, name="whole"))
    write(whole, given)
    store, until = RollingStore(client, VIEW, **TINY), given[-1].at
    folded = 0
    for tenant in ("t", "u"):
        for card in ("a", "b"):
            folded += int(client.hlen(store.keys(tenant, card)[2]))  # type: ignore[arg-type]
            for seconds in (0, 1, 9, 30, 61):
                at = until + timedelta(seconds=seconds)
                assert store.read(tenant, card, at).values == whole.read(tenant, card, at).values
    assert folded > 8, "nothing was folded: nothing was tested"


class Log:
    """A topic: what was sent, and what has come since it was last read."""

    def __init__(self, given: list[Swipe]) -> None:
        self._rows, self._read, self._lock = [*given], 0, threading.Lock()

    def send(self, given: list[Swipe]) -> None:
        with self._lock:
            self._rows += given

    def all(self) -> list[pa.Table]:
        self._read = 0
        return self.newer()

    def newer(self) -> list[pa.Table]:
        with self._lock:
            found, self._read = self._rows[self._read :], len(self._rows)
        return [events(found)]


def test_what_a_heavy_writer_folds_meanwhile_is_neither_lost_nor_doubled(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the rebuilding begins, and while it reads, the writer adds more to each entity than is kept
    apart: what it adds is folded, and rows from before the loss come behind what is folded."""
    given = busy(6_000)
    part = len(given) // 8
    assert part > 4 * TINY["cap"]
    come = [given[begin : begin + part] for begin in range(4 * part, len(given), part)]
    log, store = Log(given[: 4 * part]), RollingStore(client, VIEW, **TINY)

    def written() -> None:
        if come:
            log.send(come[0])
            write(store, come.pop(0))

    whole_batches = job._batches

    def overtaken(connection: Any, query: str) -> Iterator[pa.RecordBatch]:
        for batch in whole_batches(connection, query):
            for begin in range(0, batch.num_rows, 100):
                if begin % 300 == 0:
                    written()
                yield batch.slice(begin, 100)

    monkeypatch.setattr(job, "_batches", overtaken)
    written()  # after the loss, before the rebuilding
    restore = RollingRestore(client, VIEW, **TINY)
    done = rebuild_events(VIEW, log.all(), restore, clock=ManualClock(), newer=log.newer)
    assert not come
    assert done.rows >= 4 * part
    check_values(client, given)


def test_beside_a_writer_that_never_rests(client: redis.Redis) -> None:
    """One row after the other; a row is on the topic before it is written. Those before the loss come from
    the rebuilding alone, but for the last of them, which the writer reads again."""
    given = busy(6_000)
    lost = len(given) // 2
    log, store = Log(given[:lost]), RollingStore(client, VIEW, **TINY)

    def work() -> None:
        for one in given[lost - 50 :]:
            log.send([one])
            store.write(events([one]).to_batches()[0])

    writer, alive = threading.Thread(target=work), True
    writer.start()
    while alive:
        alive = writer.is_alive()
        restore = RollingRestore(client, VIEW, **TINY)
        with suppress(Unavailable):  # overtaken ten times: it may be, and the next one goes on
            rebuild_events(VIEW, log.all(), restore, clock=ManualClock(), newer=log.newer)
    check_values(client, given)


def test_an_entity_that_is_always_overtaken_is_told_and_the_others_are_there(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = busy(6_000)
    store, number = RollingStore(client, VIEW, **TINY), itertools.count()
    whole_batches = job._batches

    def overtaken(connection: Any, query: str) -> Iterator[pa.RecordBatch]:
        for batch in whole_batches(connection, query):
            begin = given[-1].at + next(number) * timedelta(minutes=1)
            later = (begin + n * SECOND for n in range(40))
            write(store, [Swipe(tenant="t", id=f"{at}", card="a", at=at, cents=1) for at in later])
            yield batch

    monkeypatch.setattr(job, "_batches", overtaken)
    with pytest.raises(Unavailable, match="1 entities of swipes") as raised:
        rebuild_events(VIEW, [events(given)], RollingRestore(client, VIEW, **TINY), clock=ManualClock())
    assert raised.value.where == "'a' of tenant 't'"
    at = given[-1].at
    inside = [o for o in given if (o.tenant, o.card) == ("u", "b") and o.at >= at - timedelta(seconds=60)]
    assert store.read("u", "b", at).values["count_60s"] == len(inside)


def test_redis_away_is_said(server: RedisServer) -> None:
    nobody = redis.Redis(port=1, socket_connect_timeout=0.2)
    with pytest.raises(Unavailable, match="Redis"):
        rebuild_events(VIEW, [events(swipes(10))], RollingRestore(nobody, VIEW), clock=ManualClock())
    writer = PackedWriter(RedisPackedValues(nobody), LAYOUT)
    with pytest.raises(Unavailable, match="Redis"):
        rebuild_windows(DEMAND, [as_table(feature_rows(2))], writer, clock=ManualClock(at=NOW))
