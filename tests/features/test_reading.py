"""Reading many entities of several views: every reader gives what the stores give, in Redis."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import redis

from core.clock import ManualClock
from core.errors import DeclarationError, InvalidInput, QueueFull, Rejected, Unavailable, UnknownName
from features.online.client import connect, connect_async
from features.online.packed_reader import AsyncPackedReader
from features.online.packed_redis import AsyncRedisPackedValues
from features.online.reading import AsyncFeatureReading, FeatureReading, FeatureReads, rolling_stores
from features.online.rolling import RollingStore
from features.online.selection import Readable
from features.view import Count, Feature
from tests.features.packed_backend import counted
from tests.features.reading_views import NOW, READABLE, ZONES, ago, put_all, put_of_another_layout
from tests.features.redis_server import RedisServer, own_redis
from tests.features.rolling_behaviour import batch
from tests.features.views import VIEW, swipe

pytestmark = pytest.mark.services
SWIPES = READABLE.features(["swipes:count_10s", "swipes:sum_60s", "swipes:mean_10s"])
CLOCK = ManualClock(NOW)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """With the last minute of a card, b's row of 40 s ago, and the packed values."""
    connection = connect(server.settings)
    put_all(connection)
    rows = [swipe(n, 0, card="a", cents=n) for n in range(4)] + [swipe(9, 0, card="b", cents=9)]
    times = [5, 10, 30, 60, 40]
    moved = [replace_time(row, seconds) for row, seconds in zip(rows, times, strict=True)]
    RollingStore(connection, VIEW).write(batch(moved))
    yield connection
    connection.close()


def replace_time(row: Any, seconds: float) -> Any:
    return type(row)(**{name: getattr(row, name) for name in row.__struct_fields__} | {"at": ago(seconds)})


@pytest.fixture
def reading(client: redis.Redis) -> FeatureReading:
    return FeatureReading.of(client, READABLE, CLOCK)


def told(reads: FeatureReads) -> list[dict[str, tuple[Any, ...]]]:
    return [
        {name: (one.value, one.age_ms, one.status) for name, one in row.features.items()}
        for row in reads.rows()
    ]


def test_a_rolling_view_of_many_entities(reading: FeatureReading) -> None:
    reads = reading.read("t", SWIPES, ["a", "b", "nobody", {"card": "a"}])
    a = {
        "swipes:count_10s": (2, 5_000, "fresh"),
        "swipes:sum_60s": (6, 5_000, "fresh"),
        "swipes:mean_10s": (0.5, 5_000, "fresh"),
    }
    assert told(reads) == [
        a,
        {
            "swipes:count_10s": (0, 40_000, "expired"),
            "swipes:sum_60s": (9, 40_000, "fresh"),
            "swipes:mean_10s": (None, 40_000, "expired"),
        },
        {
            "swipes:count_10s": (0, None, "missing"),
            "swipes:sum_60s": (0, None, "missing"),
            "swipes:mean_10s": (None, None, "missing"),
        },
        a,
    ]
    assert [row.entity for row in reads.rows()] == ["a", "b", "nobody", {"card": "a"}]
    assert reads.rows()[0].features["swipes:count_10s"].event_time == ago(5)
    assert {status for row in told(reading.read("u", SWIPES, ["a"])) for _, _, status in row.values()} == {
        "missing"
    }


def test_windowed_views_of_several_entities_in_one_call(reading: FeatureReading) -> None:
    selection = READABLE.service("ride")
    york = {"region": "north", "city": "york", "zone": "a|b%"}
    reads = reading.read("t", selection, [york, york | {"region": "south"}, york | {"zone": "a"}])
    fresh = {
        "regional_demand:bookings": (12, 10_000, "fresh"),
        "regional_demand:conversion": (3.0, 10_000, "fresh"),
    }
    zone = {"zones:rides": (7, 121_000, "stale"), "zones:mean_fare": (None, 121_000, "expired")}
    gone = {"zones:rides": (0, None, "missing"), "zones:mean_fare": (None, None, "missing")}
    stale = {
        "regional_demand:bookings": (2, 100_000, "stale"),
        "regional_demand:conversion": (None, 100_000, "stale"),
    }
    assert told(reads) == [fresh | zone, stale | zone, fresh | gone]


def test_columns_say_the_same_as_rows(reading: FeatureReading) -> None:
    for selection, entities in (
        (SWIPES, ["a", "b", "nobody", "a"]),
        (
            READABLE.service("ride"),
            [{"region": r, "city": "york", "zone": z} for r in ("north", "x") for z in ("a|b%", "a")],
        ),
        (READABLE.features(["card_activity:count_1h", "card_activity:amount_mean_7d"]), ["x"]),
    ):
        found = reading.read_batch("t", selection, entities)
        rows = found.to_pylist()
        wanted = reading.read("t", selection, entities).rows()
        for row, right in zip(rows, wanted, strict=True):
            for label, value in right.features.items():
                view, _, name = label.partition(":")
                assert row[f"{view}__{name}"] == value.value
                assert row[f"{view}__event_time"] == value.event_time
                assert row[f"{view}__age_ms"] == value.age_ms
                assert row[f"{view}__status"][name] == value.status
            given = right.entity if isinstance(right.entity, dict) else {found.schema.names[0]: right.entity}
            assert {name: row[name] for name in given} == given
        assert len(found.schema.names) == len(given) + sum(3 + len(names) for _, names in selection)
    types = reading.read_batch("t", SWIPES, []).schema
    assert types.field("swipes__count_10s").type == pa.int64()
    assert types.field("swipes__mean_10s").type == pa.float64()


async def test_coroutines_read_the_same_and_concurrently(
    server: RedisServer, reading: FeatureReading
) -> None:
    client, coroutines = connect(server.settings), connect_async(server.settings)
    asynchronous = AsyncFeatureReading.of(client, coroutines, READABLE, CLOCK)
    asked: list[tuple[Any, list[Any]]] = [
        (SWIPES, ["a", "b", "nobody"]),
        (READABLE.service("ride"), [{"region": "north", "city": "york", "zone": "a|b%"}]),
        (READABLE.features(["regional_demand:trend"]), ["north", "south", "east"] * 200),
    ]
    found = await asyncio.gather(*(asynchronous.read("t", *asked[n % 3]) for n in range(60)))
    for number, reads in enumerate(found):
        assert told(reads) == told(reading.read("t", *asked[number % 3]))
    client.close()
    await coroutines.aclose()


async def test_all_that_read_in_one_tick_share_a_round_trip(server: RedisServer) -> None:
    client, coroutines = connect(server.settings), connect_async(server.settings)
    asynchronous = AsyncFeatureReading.of(client, coroutines, READABLE, CLOCK)
    demand, zones = READABLE.features(["regional_demand:trend"]), READABLE.features(["zones:rides"])
    zone = {"city": "york", "zone": "a|b%"}
    asked: list[tuple[Any, Any]] = [(demand, "north"), (zones, zone)] * 50
    before = client.info("commandstats")["cmdstat_mget"]["calls"]
    await asyncio.gather(*(asynchronous.read("t", selection, [entity]) for selection, entity in asked))
    assert client.info("commandstats")["cmdstat_mget"]["calls"] == before + 1
    client.close()
    await coroutines.aclose()


async def test_more_entities_than_may_wait_are_refused(server: RedisServer) -> None:
    client, coroutines = connect(server.settings), connect_async(server.settings)
    asynchronous = AsyncFeatureReading(
        READABLE,
        rolling_stores(client, READABLE),
        AsyncPackedReader(AsyncRedisPackedValues(coroutines), CLOCK),
        CLOCK,
        most_waiting=3,
    )
    found = await asyncio.gather(
        *(asynchronous.read("t", SWIPES, [card, card]) for card in "ab"), return_exceptions=True
    )
    assert isinstance(found[0], FeatureReads)
    assert isinstance(found[1], QueueFull)
    assert len((await asynchronous.read("t", SWIPES, ["a", "a", "a"])).rows()) == 3
    client.close()
    await coroutines.aclose()


def test_a_rolling_view_as_of_a_time_before_now(reading: FeatureReading) -> None:
    (row,) = told(reading.read("t", SWIPES, ["a"], at=ago(8)))
    assert row["swipes:count_10s"] == (1, 2_000, "fresh")
    for wrong in (ago(-0.001), ago(30.001), NOW.replace(tzinfo=None)):
        with pytest.raises(Rejected) as refused:
            reading.read("t", SWIPES, ["a"], at=wrong)
        assert refused.value.fields.keys() == {"/as_of"}
    with pytest.raises(Rejected, match="regional_demand"):
        reading.read("t", READABLE.features(["regional_demand:trend"]), ["north"], at=ago(1))


def test_the_own_record_is_merged_in(reading: FeatureReading) -> None:
    own = {"id": "new", "cents": 100} | dict.fromkeys(("channel", "domain", "weight", "trusted"))
    (row,) = told(reading.read("t", SWIPES, ["a"], own=own))
    assert row["swipes:sum_60s"] == (106, 0, "fresh")
    assert row["swipes:count_10s"] == (3, 0, "fresh")
    with pytest.raises(InvalidInput, match="2 entities"):
        reading.read("t", SWIPES, ["a", "b"], own=own)
    with pytest.raises(InvalidInput, match="cents"):
        reading.read("t", SWIPES, ["a"], own={"id": "new"})
    with pytest.raises(InvalidInput, match="own record"):
        reading.read("t", READABLE.features(["regional_demand:trend"]), ["north"], own=own)


def test_a_value_of_another_layout_is_missing_and_counted(
    client: redis.Redis, reading: FeatureReading
) -> None:
    put_of_another_layout(client)
    before = counted("online_packed_unreadable", view="zones", reason="fingerprint")
    selection = READABLE.features(["zones:rides"])
    (row,) = told(reading.read("t", selection, [{"city": "york", "zone": "other"}]))
    assert row == {"zones:rides": (0, None, "missing")}
    assert counted("online_packed_unreadable", view="zones", reason="fingerprint") == before + 1


@pytest.mark.parametrize(
    ("entities", "wrong"),
    [
        (["a"], {"/entities/0"}),
        ([{"city": "york"}], {"/entities/0/zone"}),
        ([{"city": "york", "zone": 3}], {"/entities/0/zone"}),
        ([{"city": "york", "zone": "a", "zome": "b"}], {"/entities/0/zome"}),
        ([{"city": "york", "zone": "a"}, 7, None], {"/entities/1", "/entities/2"}),
        ([{"city": "york", "zone": "\ud800"}], {"/entities/0/zone"}),
    ],
)
def test_wrong_entities_are_all_named(reading: FeatureReading, entities: Any, wrong: set[str]) -> None:
    with pytest.raises(Rejected) as refused:
        reading.read("t", READABLE.features(["zones:rides"]), entities)
    assert refused.value.fields.keys() == wrong


def test_unknown_names_suggest_the_nearest() -> None:
    for ask, nearest in (
        (lambda: READABLE.features(["zone:rides"]), "zones"),
        (lambda: READABLE.features(["zones:ride"]), "rides"),
        (lambda: READABLE.service("rides"), "ride"),
    ):
        with pytest.raises(UnknownName) as unknown:
            ask()
        assert unknown.value.nearest == nearest
    with pytest.raises(Rejected) as refused:
        READABLE.features(["zones:rides", "zones", "zones:rides"])
    assert refused.value.fields.keys() == {"/features/1", "/features/2"}
    with pytest.raises(Rejected):
        READABLE.features([])


def test_two_meanings_of_one_name_are_refused() -> None:
    with pytest.raises(DeclarationError, match="two views"):
        Readable((ZONES, replace(ZONES, version=2)))
    with pytest.raises(DeclarationError, match="age_ms"):
        Readable((replace(ZONES, features=(Feature("age_ms", Count(), unit="x"),)),))
    assert Readable((ZONES, ZONES)).views == {"zones": ZONES}


def test_while_redis_is_away_reads_say_so() -> None:
    with own_redis() as server:
        client = connect(server.settings)
        reading = FeatureReading.of(client, READABLE, CLOCK)
        assert len(reading.read("t", SWIPES, ["a"]).rows()) == 1
        server.kill()
        for selection in (SWIPES, READABLE.features(["regional_demand:trend"])):
            with pytest.raises(Unavailable):
                reading.read("t", selection, ["a"])
        server.start()
        assert len(reading.read("t", SWIPES, ["a"]).rows()) == 1
        client.close()
