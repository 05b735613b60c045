"""Feast's own client on our online store, in a real Redis: it reads what our writer wrote, our reader reads
what it wrote, and a value never goes back."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as FeastValue

from core.errors import InvalidInput, Unavailable
from features.online.packed_writer import PackedRow
from features.online.rolling import RollingStore
from schemas.keys import entity_of
from tests.contract.feast_world import World, ago, demand, feast_world, millis, packed
from tests.features.redis_server import RedisServer, own_redis
from tests.features.rolling_behaviour import batch
from tests.features.training_rows import DEMAND
from tests.features.views import VIEW, Swipe

pytestmark = pytest.mark.services

NAMES = DEMAND.feature_names
TENANTS, CITIES, ZONES = ("t", "t|", "{u}"), ("a", "b|%", "ü"), ("", "z|", "%7C")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@pytest.fixture(scope="module")
def world(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with feast_world(server, tmp_path_factory.mktemp("feast")) as made:
        yield made


@pytest.fixture(autouse=True)
def empty(world: World) -> None:
    world.client.flushall()


def keys(tenant: str, city: str, zone: str) -> dict[str, str]:
    return {"tenant": tenant, "city": city, "zone": zone}


def asked(world: World, rows: list[dict[str, str]], names: list[str]) -> dict[str, list[Any]]:
    answer = world.store.get_online_features([f"demand:{name}" for name in names], rows)
    found: dict[str, list[Any]] = answer.to_dict()
    return found


def some_rows(rng: random.Random) -> list[PackedRow]:
    """Values of ages on both sides of each time to live (5, 15 and 30 s) and of `fresh`, never near one."""
    rows = []
    for tenant in TENANTS:
        for city in CITIES:
            for zone in ZONES:
                if rng.random() < 0.3:
                    continue
                values = [
                    rng.choice([0, -1, 2**63 - 1, None]), rng.choice([7, -(2**63), None]),
                    rng.choice([0.1, -1e300, 0.0, None]), rng.choice(["", "x|", "ü", None]),
                    rng.choice([True, False, None]), rng.choice([1, None]),
                ]  # fmt: skip
                at = millis(ago(rng.choice([-2, 0, 9, 22, 60])))
                rows.append(PackedRow(tenant, entity_of((city, zone)), at, rng.randrange(5), values))
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_feast_reads_what_our_writer_wrote(world: World, seed: int) -> None:
    rng = random.Random(seed)
    rows = some_rows(rng)
    assert set(world.write(rows)) == {"written"}
    entities = [
        (rng.choice((*TENANTS, "nobody")), rng.choice((*CITIES, "nowhere")), rng.choice(ZONES))
        for _ in range(60)
    ]
    names = rng.sample(NAMES, rng.randint(1, len(NAMES)))
    found = asked(world, [keys(*entity) for entity in entities], names)
    known = {(row.tenant, row.entity) for row in rows}
    assert any((tenant, entity_of(rest)) in known for tenant, *rest in entities)
    for at, entity in enumerate(entities):
        assert {name: found[name][at] for name in names} == world.read(*entity, names), entity


def test_each_value_says_its_event_time_and_whether_it_was_found(world: World) -> None:
    at = ago(9)
    world.write([packed(demand(at, fares=None))])
    answer = world.store.get_online_features(
        ["demand:fares", "demand:rides", "demand:last_kind"], [keys("t", "a", "z"), keys("t", "a", "y")]
    ).proto
    told = {
        name: list(zip(vector.statuses, vector.event_timestamps, strict=True))
        for name, vector in zip(answer.metadata.feature_names.val, answer.results, strict=True)
    }
    for name in ("fares", "rides"):  # a null that was written is there
        status, time = told[name][0]
        assert (status, time.ToDatetime(UTC)) == (FieldStatus.PRESENT, at)
    assert told["last_kind"][0][0] == FieldStatus.NOT_FOUND  # 9 s old, and good for 5
    for name in ("fares", "rides", "last_kind"):
        assert told[name][1][0] == FieldStatus.NOT_FOUND


def test_an_entity_that_is_asked_twice_is_answered_twice_in_order(world: World) -> None:
    world.write([packed(demand(ago(0), zone="y", rides=1)), packed(demand(ago(0), rides=2))])
    rows = [keys("t", "a", zone) for zone in ("z", "y", "z", "x", "y")]
    assert asked(world, rows, ["rides"])["rides"] == [2, 1, 2, None, 1]


async def test_coroutines_read_and_push_the_same(world: World) -> None:
    await world.store.push_async("demand_push", pd.DataFrame([demand(ago(0)), demand(ago(1), city="b")]))
    rows = [keys("t", city, "z") for city in ("b", "a", "c")]
    answer = await world.store.get_online_features_async([f"demand:{name}" for name in NAMES], rows)
    assert answer.to_dict() == asked(world, rows, list(NAMES))
    assert answer.to_dict()["rides"] == [3, 3, None]


def test_what_is_pushed_are_the_bytes_that_our_writer_writes(world: World) -> None:
    rows = [
        demand(ago(1), city=city, zone=zone, tenant=tenant)
        for tenant in TENANTS for city in CITIES for zone in ZONES
    ]  # fmt: skip
    world.store.push("demand_push", pd.DataFrame(rows))
    every = sorted(world.client.scan_iter("*"))
    pushed = {key: world.client.get(key) for key in every}
    left = [world.client.pttl(key) for key in every]
    assert all(25_000 < one <= 30_000 for one in left if isinstance(one, int))
    world.client.flushall()
    world.write([packed(row) for row in rows])
    assert len(every) == len(rows)
    assert {key: world.client.get(key) for key in sorted(world.client.scan_iter("*"))} == pushed


def test_nulls_in_a_data_frame_are_nulls(world: World) -> None:
    rows = [demand(ago(1)), demand(ago(1), zone="y", **dict.fromkeys(NAMES[:5]))]
    world.store.push("demand_push", pd.DataFrame(rows))
    assert world.read("t", "a", "y", NAMES) == dict.fromkeys(NAMES[:5]) | {"doubled": 6}


def test_a_value_never_goes_back(world: World) -> None:
    at = ago(2)

    def push(row: dict[str, Any]) -> dict[str, Any]:
        world.store.push("demand_push", pd.DataFrame([row]))
        return world.read("t", "a", "z", ["rides"])

    assert push(demand(at, rides=1)) == {"rides": 1}
    assert push(demand(at - timedelta(milliseconds=1), rides=2)) == {"rides": 1}
    assert push(demand(at, rides=3)) == {"rides": 1}  # another value of the same version
    assert push(demand(at + timedelta(microseconds=2), rides=4)) == {"rides": 4}  # a correction
    assert world.write([packed(demand(at, rides=5), sequence=1)]) == ["older"]
    assert world.write([packed(demand(at, rides=6), sequence=3)]) == ["written"]
    assert push(demand(at + timedelta(microseconds=2), rides=7)) == {"rides": 6}
    assert push(demand(at + timedelta(milliseconds=1), rides=8)) == {"rides": 8}
    assert world.stored("t", "a", "z") is not None


def test_times_without_a_zone_are_utc(world: World) -> None:
    at = ago(3)
    world.store.push("demand_push", pd.DataFrame([demand(at.replace(tzinfo=None))]))
    world.store.push("demand_push", pd.DataFrame([demand(at, city="b")]))
    naive, aware = world.stored("t", "a", "z"), world.stored("t", "b", "z")
    assert naive is not None
    assert naive == aware


def test_rows_that_cannot_be_stored_are_told_and_the_others_are_written(world: World) -> None:
    rows = [demand(ago(1)), demand(ago(1), zone="y", tips=float("inf"))]
    with pytest.raises(InvalidInput, match="1 of 2 rows"):
        world.store.push("demand_push", pd.DataFrame(rows))
    assert world.read("t", "a", "z", ["rides"]) == {"rides": 3}
    assert world.stored("t", "a", "y") is None


def test_a_rolling_view_is_read_as_of_now(world: World) -> None:
    rolling = RollingStore(world.client, VIEW)
    swipes = [
        Swipe(tenant=tenant, id=str(n), card=card, at=ago(age), cents=100 * n, weight=n / 8)
        for n, (tenant, card, age) in enumerate(
            [("t", "a", 5), ("t", "a", 30), ("t", "b|%", 30), ("u", "a", 70), ("t", "old", 80)]
        )
    ]
    rolling.write(batch(swipes))
    entities = [("t", "a"), ("t", "b|%"), ("u", "a"), ("t", "old"), ("t", "nobody"), ("t", "a")]
    answer = world.store.get_online_features(
        [f"swipes:{name}" for name in VIEW.feature_names],
        [{"tenant": tenant, "card": card} for tenant, card in entities],
    ).to_dict()
    for at, (tenant, card) in enumerate(entities):
        right = rolling.read(tenant, card, datetime.now(UTC))
        assert {name: answer[name][at] for name in VIEW.feature_names} == {
            name: None if right.statuses[name] == "missing" else value for name, value in right.values.items()
        }
    assert answer["count_60s"] == [2, 1, 0, 0, None, 2]  # known without rows in the window: 0; unknown: null
    assert answer["mean_60s"] == [50.0, 200.0, None, None, None, 50.0]


async def test_a_service_reads_windowed_and_rolling_views_together(world: World) -> None:
    world.write([packed(demand(ago(0)))])
    RollingStore(world.client, VIEW).write(batch([Swipe(tenant="t", id="1", card="c", at=ago(5), cents=40)]))
    ride = world.store.get_feature_service("ride")
    rows = [keys("t", "a", "z") | {"card": "c"}, keys("t", "a", "z") | {"card": "d"}]
    answer = world.store.get_online_features(ride, rows).to_dict()
    assert (answer["rides"], answer["count_60s"], answer["mean_60s"]) == ([3, 3], [1, None], [40.0, None])
    assert answer == (await world.store.get_online_features_async(ride, rows)).to_dict()


def test_a_rolling_view_takes_no_rows(world: World) -> None:
    row = {"tenant": "t", "card": "a", "at": ago(1)} | dict.fromkeys(VIEW.feature_names, 1)
    with pytest.raises(InvalidInput, match="computed when they are read"):
        world.store.write_to_online_store("swipes", pd.DataFrame([row]))
    assert not list(world.client.scan_iter("*"))


async def test_tenants_may_be_mixed_in_one_call(world: World) -> None:
    """Feast sorts what it asks for; whoever calls the store himself need not."""
    tenants = ["u", "t", "v", "u", "t"]
    world.write([packed(demand(ago(0), tenant=tenant, rides=ord(tenant))) for tenant in "ut"])
    store, config = world.store._get_provider().online_store, world.store.config
    view = world.store.get_feature_view("demand")
    asked = [
        EntityKey(
            join_keys=["tenant", "zone", "city"],
            entity_values=[FeastValue(string_val=part) for part in (tenant, "z", "a")],
        )
        for tenant in tenants
    ]
    found = store.online_read(config, view, asked, ["rides"])
    rides = [None if values is None else values["rides"].int64_val for _, values in found]
    assert rides == [ord("u"), ord("t"), None, ord("u"), ord("t")]
    assert await store.online_read_async(config, view, asked, ["rides"]) == found


def test_a_key_without_its_tenant_is_refused(world: World) -> None:
    value = FeastValue(string_val="a")
    store = world.store._get_provider().online_store
    view = world.store.get_feature_view("demand")
    wrong = [
        EntityKey(join_keys=["city", "zone"], entity_values=[value, value]),
        EntityKey(
            join_keys=["zone", "city", "tenant"], entity_values=[value, value, FeastValue(int64_val=7)]
        ),
    ]
    for key, reason in zip(wrong, ("give tenant, city, zone", "'tenant' is no string"), strict=True):
        with pytest.raises(InvalidInput, match=reason):
            store.online_read(world.store.config, view, [key])


def test_taking_a_view_away_takes_its_values_and_no_others(server: RedisServer, tmp_path: Path) -> None:
    with feast_world(server, tmp_path) as world:
        world.write([packed(demand(ago(0), zone=str(n))) for n in range(2_500)])
        RollingStore(world.client, VIEW).write(
            batch([Swipe(tenant="t", id="1", card="c", at=ago(5), cents=40)])
        )
        others = ["ms:demand:2:{t|a}:packed", "ms:demand_more:1:{t|a}:packed", "ms:demand:11:{t|a}:packed"]
        world.client.mset(dict.fromkeys(others, "x"))
        view = world.store.get_feature_view("demand")
        world.store._get_provider().update_infra("millstream", [view], [], [], [], partial=True)
        there = {key.decode() for key in world.client.scan_iter("*") if isinstance(key, bytes)}
        assert there >= set(others)
        assert {key.split(":")[1] for key in there - set(others)} == {"swipes"}
        world.store.teardown()
        assert set(world.client.scan_iter("*")) == {key.encode() for key in others}


def test_redis_away_is_unavailable(tmp_path: Path) -> None:
    with own_redis() as server, feast_world(server, tmp_path) as world:
        server.kill()
        with pytest.raises(Unavailable):
            asked(world, [keys("t", "a", "z")], ["rides"])
        with pytest.raises(Unavailable):
            world.store.get_online_features(["swipes:count_60s"], [{"tenant": "t", "card": "c"}])
        with pytest.raises(Unavailable):
            world.store.push("demand_push", pd.DataFrame([demand(ago(1))]))
