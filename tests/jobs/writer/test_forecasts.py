"""Forecasts on real Kafka and PostgreSQL: stored before they are told, the first of an id for good."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from core.settings import settings
from features.catalog.demand_history import DEMAND_DAYS
from features.feature_rows import features_topic, late_topic, row_id
from jobs.writer.errors import BadRecord
from jobs.writer.forecast_store import PostgresForecastStore
from operators.forecast import Horizon
from pipelines.plan import ForecastPlan, Infer
from schemas.catalog.forecasts import Expected, Forecast
from schemas.catalog.user_events import UserEvent
from schemas.headers import header
from schemas.topic import Topic
from stack.local import Stack
from tests.jobs.writer.deployed import OnTopics, Running, until

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]

DAY = timedelta(days=1)
BEGIN = datetime(2026, 3, 2, tzinfo=UTC)


def plan_of(name: str) -> ForecastPlan:
    view = replace(DEMAND_DAYS, name=f"{name}_days")
    kept: Any = {"partitions": 2, "retention": timedelta(days=1)}
    return ForecastPlan(
        pipeline=name,
        version=1,
        source=Topic(f"{name}.happened.events.v1", UserEvent, **kept),
        view=view,
        takes_events=False,
        rows=features_topic(name, view, **kept),
        late=late_topic(name, view, **kept),
        infer=Infer("demand"),
        counted="bookings",
        scale="bookings_28d",
        horizons=(Horizon("next_day", 1),),
        results=Topic(f"{name}.days.results.v1", Forecast, **kept),
        status=Topic(f"{name}.days.status.v1", Forecast, **kept),
    )


def forecast(pipeline: str, number: int, value: float, *, tenant: str = "acme", entity: str = "") -> Forecast:
    region, end = entity or ("north", "s|%", "ü")[number % 3], BEGIN + number * DAY
    return Forecast(
        tenant=tenant,
        id=row_id(region, end, 0),
        entity=region,
        pipeline=pipeline,
        window_start=end - DAY,
        window_end=end,
        sequence=0,
        expected=[Expected("next_day", end, end + DAY, value)],
        unit="bookings",
        model="demand",
        model_version="1",
        made_at=end + timedelta(seconds=1),
    )


def stored(database: str) -> list[Forecast]:
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT forecast::text FROM forecasts ORDER BY window_end, tenant")
        return [msgspec.json.decode(row[0], type=Forecast) for row in rows.fetchall()]


def test_the_first_forecast_of_an_id_is_stored_and_then_told(
    stack: Stack, database: str, tmp_path: Path
) -> None:
    del stack
    given = settings()
    changed = {"home": tmp_path, "postgres": given.postgres.model_copy(update={"url": database})}
    deployed = OnTopics(given.model_copy(update=changed), plan_of(f"t{uuid.uuid4().hex[:10]}"))
    plan = deployed.plan
    assert isinstance(plan, ForecastPlan)
    firsts = [forecast(plan.pipeline, number, 10.5 + number) for number in range(12)]
    repeats = [forecast(plan.pipeline, number, 99.0) for number in range(0, 12, 2)]
    with Running(deployed):
        deployed.send(plan.results, [*firsts[:6], *repeats[:2], *firsts[6:], *repeats])
        until(lambda: len(deployed.records(plan.status)) == 12, "each is told", 90)
        until(lambda: deployed.committed("forecasts", plan.results) == 20, "all is committed")
        assert stored(database) == firsts
        told = deployed.messages(plan.status)
        assert len(told) == 12, "a repeat is not told again"
        assert {header(one.headers(), "ce_tenant") for one in told} == {"acme"}
        assert {header(one.headers(), "ce_source") for one in told} == {plan.pipeline}
    by_id = {one.id: one for one in deployed.records(plan.status)}
    assert by_id == {one.id: one for one in firsts}
    keyed = {one.key(): one.partition() for one in deployed.messages(plan.results)}
    assert {one.key(): one.partition() for one in told} == keyed
    with Running(deployed):  # another process does not know what was told: it tells what is stored
        deployed.send(plan.results, repeats[:1])
        until(lambda: deployed.committed("forecasts", plan.results) == 21, "the repeat is committed")
        again = [one for one in deployed.records(plan.status) if one.id == firsts[0].id]
        assert again == [firsts[0], firsts[0]]
    assert stored(database) == firsts


def test_ids_are_of_a_tenant_and_a_pipeline(database: str) -> None:
    store = PostgresForecastStore(database)
    try:
        ones = [
            forecast("days", 1, 1.0),
            forecast("hours", 1, 2.0),
            forecast("days", 1, 3.0, tenant="other"),
        ]
        assert sorted(store.store(ones, BEGIN), key=lambda one: one.expected[0].value) == ones
        assert store.store([forecast("hours", 1, 7.0)], BEGIN) == [ones[1]]
        assert store.store([], BEGIN) == []
        with pytest.raises(BadRecord):
            store.store([forecast("days", 2, 1.0, entity="a\0b")], BEGIN)
    finally:
        store.close()
