"""Feast's own materializing and historical joins over the Delta tables of the offline store."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from feast.data_source import PushMode

from core.errors import InvalidInput
from tests.contract.feast_world import World, ago, demand, feast_world, history, packed, record
from tests.features.redis_server import RedisServer, own_redis
from tests.features.training_rows import DEMAND

pytestmark = pytest.mark.services

NAMES = DEMAND.feature_names


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture
def world(server: RedisServer, tmp_path: Path) -> Iterator[World]:
    with feast_world(server, tmp_path) as made:
        made.client.flushall()
        yield made


def materialize(world: World, since: datetime, until: datetime) -> None:
    world.store.materialize(since, until, disable_event_timestamp=False)


def stored(world: World) -> dict[bytes, Any]:
    return {key: world.client.get(key) for key in sorted(world.client.scan_iter("*"))}


@pytest.mark.parametrize("seed", range(3))
def test_materializing_puts_the_newest_row_of_each_entity_there(
    world: World, tmp_path: Path, seed: int
) -> None:
    """Windows with corrections, in several commits, compacted in between."""
    rng, begin = random.Random(seed), ago(120).replace(microsecond=0)
    rows = [
        demand(
            begin + timedelta(seconds=10 * rng.randrange(14)),
            tenant=rng.choice(["t", "t|"]), city=rng.choice("ab"), zone=rng.choice(["", "z|"]),
            rides=number, tips=rng.choice([None, 0.5]), sequence=rng.randrange(4),
        )
        for number in range(120)
    ]  # fmt: skip
    rows = list(
        {(r["tenant"], r["city"], r["zone"], r["window_end"], r["sequence"]): r for r in rows}.values()
    )
    for part in range(0, len(rows), 40):
        record(tmp_path, rows[part : part + 40])
    DeltaTable(history(tmp_path, "demand")).optimize.compact()
    since, until = begin + timedelta(seconds=20), begin + timedelta(seconds=119)
    materialize(world, since, until)
    found = stored(world)
    world.client.flushall()
    world.write([packed(row, row["sequence"]) for row in rows if since <= row["window_end"] <= until])
    assert found == stored(world)
    assert len(found) > 4


def test_what_the_stream_wrote_meanwhile_stays(world: World, tmp_path: Path) -> None:
    at = ago(10).replace(microsecond=0)
    record(tmp_path, [demand(at, rides=1), demand(at, rides=2, sequence=1, zone="y")])
    world.write([packed(demand(at + timedelta(seconds=10), rides=9)), packed(demand(at, rides=8, zone="y"))])
    materialize(world, at - timedelta(minutes=1), at + timedelta(seconds=1))
    assert world.read("t", "a", "z", ["rides"]) == {"rides": 9}
    assert world.read("t", "a", "y", ["rides"]) == {"rides": 2}  # the correction is the later one


def test_only_the_newest_version_of_the_table_is_read(world: World, tmp_path: Path) -> None:
    at = ago(10).replace(microsecond=0)
    record(tmp_path, [demand(at, zone="gone")])
    record(tmp_path, [demand(at, rides=2)], mode="overwrite")
    materialize(world, at - timedelta(minutes=1), ago(0))
    assert world.read("t", "a", "z", ["rides"]) == {"rides": 2}
    assert world.stored("t", "a", "gone") is None


def test_a_table_without_a_row_materializes_nothing(world: World, tmp_path: Path) -> None:
    record(tmp_path, [])
    materialize(world, ago(60), ago(0))
    assert stored(world) == {}


def test_a_table_that_is_not_there_is_told(world: World) -> None:
    with pytest.raises(InvalidInput, match="no Delta table yet"):
        materialize(world, ago(60), ago(0))


def test_reads_go_on_after_materializing(world: World, tmp_path: Path) -> None:
    """Feast keeps a state per view, and refuses to serve views that are not available."""
    at = ago(5).replace(microsecond=0)
    record(tmp_path, [demand(at, rides=4)])
    rows = [{"tenant": "t", "city": "a", "zone": "z"}]
    assert world.store.get_online_features(["demand:rides"], rows).to_dict()["rides"] == [None]
    materialize(world, at - timedelta(minutes=1), ago(0))
    world.store.materialize_incremental(datetime.now(UTC))
    assert world.store.get_online_features(["demand:rides"], rows).to_dict()["rides"] == [4]


def test_the_offline_store_is_not_written(world: World, tmp_path: Path) -> None:
    record(tmp_path, [demand(ago(5))])
    before = DeltaTable(history(tmp_path, "demand")).version()
    rows = pd.DataFrame([demand(ago(1), sequence=0, date=ago(1).date())])
    with pytest.raises(InvalidInput, match="cannot write the offline store"):
        world.store.push("demand_push", rows, to=PushMode.OFFLINE)
    assert DeltaTable(history(tmp_path, "demand")).version() == before


def test_historical_features_are_those_of_the_time(world: World, tmp_path: Path) -> None:
    """Of both shapes; rows that came late to a rolling view have no features and take no part."""
    begin = datetime(2026, 3, 1, tzinfo=UTC)

    def at(seconds: float) -> datetime:
        return begin + timedelta(seconds=seconds)

    record(
        tmp_path,
        [
            demand(at(10), rides=1), demand(at(20), rides=2), demand(at(20), rides=3, sequence=1),
            demand(at(20), rides=9, tenant="u"),
        ],
    )  # fmt: skip
    swipes = pa.table(
        {
            "tenant": ["t"] * 3, "card": ["c"] * 3,
            "at": pa.array([at(5), at(15), at(16)], pa.timestamp("us", tz="UTC")),
            "count_60s": [1, 2, None], "mean_60s": [1.0, 2.0, None], "late": [False, None, True],
        }
    )  # fmt: skip
    write_deltalake(history(tmp_path, "swipes"), swipes)
    entities = pd.DataFrame(
        [
            {"tenant": "t", "city": "a", "zone": "z", "card": "c", "event_timestamp": at(seconds)}
            for seconds in (9, 15, 19.5, 21, 49)
        ]
    )
    job = world.store.get_historical_features(entities, ["demand:rides", "swipes:count_60s"])
    found = job.to_df().sort_values("event_timestamp")
    rides = [None if pd.isna(one) else int(one) for one in found["rides"]]
    counts = [None if pd.isna(one) else int(one) for one in found["count_60s"]]
    assert rides == [None, 1, 1, 3, 3]
    assert counts == [1, 2, 2, 2, 2]
