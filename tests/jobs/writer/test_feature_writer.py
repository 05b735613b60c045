"""The writer of a windowed view on real Kafka, registry, Delta and a Redis of its own that goes away."""

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.clock import to_millis
from core.errors import UnknownName
from core.settings import settings
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.feature_rows import features_topic, late_topic, row_id
from features.online.client import connect
from features.online.layout import layout_of
from features.online.packed_reader import PackedReader
from features.online.packed_redis import RedisPackedValues
from pipelines.offline import read_offline
from pipelines.plan import FeaturesPlan
from schemas.catalog.user_events import UserEvent
from schemas.headers import header
from schemas.record import Record
from schemas.topic import Topic
from stack.local import Stack
from tests.features.redis_server import RedisServer, own_redis
from tests.jobs.writer.deployed import OnTopics, Running, until

pytestmark = pytest.mark.services

REGIONS = ("north", "s|%", "ü")
NOW = datetime(2026, 3, 4, tzinfo=UTC)
"""The minute in which a test begins; see `minute`."""


def plan_of(name: str) -> FeaturesPlan:
    view = replace(REGIONAL_DEMAND, name=f"{name}_demand")
    kept: Any = {"partitions": 2, "retention": timedelta(days=1)}
    return FeaturesPlan(
        pipeline=name,
        version=1,
        source=Topic(f"{name}.happened.events.v1", UserEvent, **kept),
        view=view,
        rows=features_topic(name, view, **kept),
        late=late_topic(name, view, **kept),
    )


@pytest.fixture(autouse=True)
def minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values expire after two minutes: times count from the test, not from when this file was read."""
    monkeypatch.setattr(f"{__name__}.NOW", datetime.now(UTC).replace(second=0, microsecond=0))


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def deployed(stack: Stack, redis_server: RedisServer, tmp_path: Path) -> OnTopics:
    del stack
    given = settings()
    changed = {
        "home": tmp_path,
        "redis": redis_server.settings.redis,
        "writer": given.writer.model_copy(update={"delta_interval_s": 0.5}),
    }
    return OnTopics(given.model_copy(update=changed), plan_of(f"t{uuid.uuid4().hex[:10]}"))


def row(plan: FeaturesPlan, region: str, minute: int, sequence: int = 0, **features: Any) -> Record:
    end = NOW + timedelta(minutes=minute)
    names: dict[str, Any] = dict.fromkeys(plan.view.feature_names)
    assert plan.rows.record is not None
    return plan.rows.record(
        tenant="t", id=row_id(region, end, sequence), entity=region, region=region,
        window_start=end - timedelta(minutes=1), window_end=end, sequence=sequence, **(names | features),
    )  # type: ignore[call-arg]  # fmt: skip


def bookings(deployed: OnTopics, region: str) -> tuple[Any, int | None]:
    values = RedisPackedValues(connect(deployed.settings))
    found = PackedReader(values).read(layout_of(deployed.plan.view), "t", region)
    return found.values["bookings"], found.event_time_ms


def test_the_newest_row_is_online_and_every_row_offline(deployed: OnTopics) -> None:
    plan = deployed.plan
    assert isinstance(plan, FeaturesPlan)
    sent = [row(plan, region, minute, bookings=minute) for minute in range(3) for region in REGIONS]
    corrected = [row(plan, "north", 2, 1, bookings=77), row(plan, "ü", 1, 1, bookings=99)]
    with Running(deployed) as writer:
        until(lambda: writer.probe.readiness()[0], "ready")
        deployed.send(plan.rows, [*sent, *corrected, sent[0], sent[-1]])
        until(lambda: deployed.committed("online", plan.rows) == len(sent) + 4, "rows committed")
        until(lambda: len(offline(deployed)) == len(sent) + 4, "rows offline")
    end = to_millis(NOW + timedelta(minutes=2))
    assert {region: bookings(deployed, region) for region in REGIONS} == {
        "north": (77, end), "s|%": (2, end), "ü": (2, end)
    }  # fmt: skip


def offline(deployed: OnTopics) -> list[str]:
    assert isinstance(deployed.plan, FeaturesPlan)
    try:
        found = read_offline(deployed.settings.root, deployed.plan.rows.name)
    except UnknownName:  # before the first commit
        return []
    ids: list[str] = found.column("id").to_pylist()
    return ids


def test_what_cannot_be_stored_is_dead_lettered_and_the_rest_goes_on(deployed: OnTopics) -> None:
    plan = deployed.plan
    assert isinstance(plan, FeaturesPlan)
    bad = [row(plan, "north", 0, conversion=value) for value in (float("nan"), float("inf"))]
    with Running(deployed) as writer:
        until(lambda: writer.probe.readiness()[0], "ready")
        deployed.send(plan.rows, [*bad, row(plan, "ü", 0, bookings=1)])
        deployed.send_raw(plan.rows, b"no row", key="t|north")
        deployed.send(plan.rows, [row(plan, "north", 0, bookings=5)])
        deployed.send_raw(plan.source, b"no event", key="t|north")
        until(lambda: deployed.committed("online", plan.rows) == 5, "rows committed")
        until(lambda: len(deployed.messages(plan.source.dlq)) == 1, "the bad event")
    letters = deployed.messages(plan.rows.dlq)
    assert Counter(header(one.headers(), "dlq_stage") for one in letters) == {"store": 2, "decode": 1}
    assert (bookings(deployed, "north")[0], bookings(deployed, "ü")[0]) == (5, 1)


def test_without_redis_the_writer_holds_back_and_loses_nothing(
    deployed: OnTopics, redis_server: RedisServer
) -> None:
    plan = deployed.plan
    assert isinstance(plan, FeaturesPlan)
    with Running(deployed) as writer:
        until(lambda: writer.probe.readiness()[0], "ready")
        deployed.send(plan.rows, [row(plan, "north", 0, bookings=1)])
        until(lambda: deployed.committed("online", plan.rows) == 1, "the first row")
        redis_server.kill()
        deployed.send(plan.rows, [row(plan, region, 1, bookings=8) for region in REGIONS])
        until(lambda: not writer.probe.readiness()[0], "not ready")
        assert deployed.committed("online", plan.rows) == 1, "nothing is committed that Redis has not"
        redis_server.start()
        until(lambda: deployed.committed("online", plan.rows) == 4, "all rows")
    assert {bookings(deployed, region)[0] for region in REGIONS} == {8}
