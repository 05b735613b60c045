"""The demand pipeline as it is deployed: events by HTTP, values by HTTP, loss of the store, late events."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import redis

from cli.deploy_commands import apply_all
from cli.features.verify import verified
from cli.jobs import job_specs
from core.clock import SystemClock
from core.ids import new_id
from core.settings import settings
from features.online.layout import layout_of
from features.online.packed_redis import RedisPackedValues
from features.online.packed_writer import PackedWriter
from gateway.keys import create_key
from jobs.batch.correct import CorrectedTopics, correct
from jobs.batch.rebuild import rebuild_windows
from pipelines import recorded
from pipelines.load import load_features
from pipelines.outbox import Outbox
from pipelines.plan import FeaturesPlan
from schemas.broker import producer
from stack.local import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

READY_S, SETTLE_S = 150.0, 60.0
REGIONS = ("north", "south", "e|ast", "wést")
KINDS = ("search", "search", "booking", "cancel", "look")
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def plan(stack: Stack) -> Iterator[FeaturesPlan]:
    found = load_features("demand")
    apply_all([found], settings(), jobs=True)
    names = [spec.name for spec in job_specs([found], settings())]
    stack.wait_ready(names, READY_S)
    yield found
    for name in names:
        if name.startswith("demand"):
            stack.remove_job(name)


@pytest.fixture
def tenant() -> str:
    return f"demand-{new_id()[-8:]}"


@pytest.fixture
def http(plan: FeaturesPlan, tenant: str) -> Iterator[httpx.Client]:
    del plan
    base = f"http://{settings().gateway.host}:{settings().gateway.port}"
    headers = {"authorization": f"Bearer {create_key(settings(), tenant, name='test')}"}
    with httpx.Client(base_url=base, headers=headers, timeout=30) as client:
        yield client


def event(number: int, at: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "user_id": f"u{number % 7}",
        "region": REGIONS[number % len(REGIONS)],
        "kind": KINDS[number % len(KINDS)],
        "occurred_at": at.isoformat(),
    } | changes


def send(http: httpx.Client, events: list[dict[str, Any]]) -> None:
    """One after the other: their time runs faster than the wall clock, and a tick must not overtake them."""
    for one in events:
        answer = http.post("/events", json=one)
        assert answer.status_code == 202, answer.text


def eventually(done: Callable[[], bool], what: str, within_s: float = SETTLE_S) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def values(http: httpx.Client, region: str) -> dict[str, Any]:
    answer = http.post("/api/v1/features/read", json={"service": "pricing", "entities": [region]})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["entities"][0]["features"]
    return found


def last_end(plan: FeaturesPlan, tenant: str) -> datetime | None:
    ends = recorded.read(plan.rows, settings(), tenant=tenant).column("window_end").to_pylist()
    return max(ends, default=None)


def test_events_are_features_that_equal_duckdb_also_after_a_loss_and_a_correction(
    plan: FeaturesPlan, http: httpx.Client, tenant: str
) -> None:
    assert {read["status"] for read in values(http, "north").values()} == {"missing"}
    # Ahead of the wall clock, as the gateway allows: the stream's clock may have come as far as now.
    begin = datetime.now(UTC)
    events = [event(number, begin + number * timedelta(milliseconds=500)) for number in range(360)]
    send(http, events)
    send(http, events[:40])  # again: accepted, and counted once
    closed = (begin + 359 * timedelta(milliseconds=500)).replace(second=0, microsecond=0)
    eventually(lambda: last_end(plan, tenant) == closed, "the minutes that are over have their rows")
    # the last minute of a stream that has fallen silent comes out as well
    eventually(lambda: last_end(plan, tenant) == closed + MINUTE, "the last minute has its rows", 90)

    read = values(http, "e|ast")
    assert {one["status"] for one in read.values()} == {"fresh"}
    assert {one["event_time"] for one in read.values()} == {
        (closed + MINUTE).isoformat().replace("+00:00", "Z")
    }
    report = verified(plan, tenant=tenant, request=True)
    (run,) = report["runs"]
    assert (report["ok"], run["recorded"], run["late"]) == (True, True, 0), run
    assert run["checked"] >= 3 * len(REGIONS)

    client = redis.Redis.from_url(settings().redis.address)
    layout = layout_of(plan.view)
    before = {region: client.get(layout.key(tenant, region)) for region in REGIONS}
    assert all(before.values())
    client.delete(*(layout.key(tenant, region) for region in REGIONS))
    assert {one["status"] for one in values(http, "north").values()} == {"missing"}
    rows = recorded.read(plan.rows, settings(), tenant=tenant)
    rebuild_windows(plan.view, [rows], PackedWriter(RedisPackedValues(client), layout), clock=SystemClock())
    assert {region: client.get(layout.key(tenant, region)) for region in REGIONS} == before

    at = begin + timedelta(seconds=2)
    send(http, [event(1_000, at, region="north", kind="booking")])
    eventually(lambda: recorded.read(plan.late, settings(), tenant=tenant).num_rows == 1, "it is late")
    corrected = corrections(plan, tenant)
    (row,) = [row for row in corrected if row["window_start"] <= at < row["window_end"]]
    (was,) = [one for one in rows.to_pylist() if one["id"] == row["id"].rpartition("|")[0] + "|0"]
    assert (row["region"], row["sequence"], row["bookings"]) == ("north", 1, was["bookings"] + 1)
    assert len(corrected) > 1, "its minute, and those that look back at it"
    assert corrections(plan, tenant) == corrected, "a second run has nothing to send"
    (run,) = verified(plan, tenant=tenant)["runs"]
    assert (run["ok"], run["late"], run["corrections"]) == (True, 1, len(corrected)), run


def corrections(plan: FeaturesPlan, tenant: str) -> list[dict[str, Any]]:
    """Run the correction; every corrected row of the tenant."""
    topics = CorrectedTopics(events=plan.source, rows=plan.rows, late=plan.late)
    outbox = Outbox(lambda: producer(settings()))
    correct(plan.view, topics, settings(), outbox, clock=SystemClock())
    rows = recorded.read(plan.rows, settings(), tenant=tenant).to_pylist()
    return [row for row in rows if row["sequence"] > 0]


def test_hostile_reads_are_4xx(http: httpx.Client) -> None:
    assert http.get("/api/v1/features/regional_demnd/north").json()["code"] == "unknown_view"
    wrong = {"features": ["regional_demand:bookigns"], "entities": ["north"]}
    answer = http.post("/api/v1/features/read", json=wrong)
    assert (answer.status_code, "bookings" in answer.text) == (404, True)
    wrong = {"features": ["regional_demand:bookings"], "entities": [{"city": "north"}]}
    assert http.post("/api/v1/features/read", json=wrong).status_code == 422
    assert http.post("/api/v1/features/read", content=b"[" * 100_000).status_code in (400, 413, 415)
