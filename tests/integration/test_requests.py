"""What a client sees of one payment: accepted, provisional, decided, and reviewed by an analyst."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from core.ids import new_id
from jobs.sources.generated import LABEL, generate
from tests.integration.scenario import Deployed, Scenario

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


@pytest.fixture
def tenant() -> str:
    return f"test-{new_id()[-10:]}"


@pytest.fixture
def client(deployed: Deployed, tenant: str) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {deployed.key(tenant)}"}
    with httpx.Client(base_url=deployed.url, headers=headers, timeout=10) as made:
        yield made


def payment(row: int = 0, **changes: Any) -> dict[str, Any]:
    (found,) = generate(200, seed=11).drop_columns(["tenant", LABEL]).slice(row, 1).to_pylist()
    event = {name: value for name, value in found.items() if value is not None}
    event |= {"id": new_id(), "occurred_at": datetime.now(UTC).isoformat()} | changes
    return event


def decided(client: httpx.Client, id: str, within_s: float = 30.0) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    body: dict[str, Any] = {}
    while time.monotonic() < deadline:
        body = client.get(f"/api/v1/transactions/{id}").raise_for_status().json()
        if body["status"] != "provisional":
            return body
        time.sleep(0.05)
    raise AssertionError(f"still provisional after {within_s:.0f} s: {body}")


def test_a_get_right_after_the_202_finds_the_payment_and_a_lone_event_is_decided(
    client: httpx.Client,
) -> None:
    """Nothing follows this event: the stream is quiet, and its result must come all the same."""
    event = payment()
    accepted = client.post("/api/v1/pipelines/fraud/events", json=event)
    assert accepted.status_code == 202
    assert (accepted.json()["id"], accepted.json()["status"]) == (event["id"], "provisional")
    assert client.get(f"/api/v1/transactions/{event['id']}").status_code == 200
    assert decided(client, event["id"])["status"] in ("blocked", "confirmed", "in_review")


def test_another_tenant_does_not_find_it(deployed: Deployed, client: httpx.Client) -> None:
    event = payment(1)
    assert client.post("/api/v1/pipelines/fraud/events", json=event).status_code == 202
    other = {"authorization": f"Bearer {deployed.key('test-stranger')}"}
    found = httpx.get(f"{deployed.url}/api/v1/transactions/{event['id']}", headers=other)
    absent = httpx.get(f"{deployed.url}/api/v1/transactions/{new_id()}", headers=other)
    assert found.status_code == absent.status_code == 404
    assert found.json()["code"] == absent.json()["code"]


def test_features_are_read_as_of_now(client: httpx.Client) -> None:
    card = f"card-{new_id()[-8:]}"
    path = f"/api/v1/features/card_activity/{card}"
    before = client.get(path)
    assert before.status_code == 200
    assert before.json()["features"]["count_10m"] == {
        "value": 0, "event_time": None, "age_ms": None, "status": "missing",
    }  # fmt: skip
    for row, amount in enumerate((1_000, 3_000)):
        event = payment(row, card_id=card, amount_cents=amount)
        assert client.post("/api/v1/pipelines/fraud/events", json=event).status_code == 202
    deadline = time.monotonic() + 30
    found: dict[str, Any] = {}
    while time.monotonic() < deadline and found.get("count_10m") != 2:
        found = {name: read["value"] for name, read in client.get(path).json()["features"].items()}
        time.sleep(0.05)
    assert (found["count_10m"], found["amount_sum_1h"], found["amount_mean_24h"]) == (2, 4_000, 2_000.0)
    assert (found["amount_max_7d"], found["amount_std_7d"]) == (3_000, 1_000.0)


def test_an_analyst_decides_what_is_in_review(deployed: Deployed, client: httpx.Client) -> None:
    waiting: list[dict[str, Any]] = []
    for row in range(200):
        client.post("/api/v1/pipelines/fraud/events", json=payment(row)).raise_for_status()
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and not waiting:
        waiting = client.get("/api/v1/reviews").raise_for_status().json()["reviews"]
        time.sleep(0.1)
    assert waiting, "none of 200 generated payments is in review"
    id = waiting[0]["id"]
    said = client.post(
        f"/api/v1/reviews/{id}/decision", json={"verdict": "fraud", "reviewer": "ada", "note": "seen before"}
    )
    assert said.status_code in (200, 202), said.text
    assert _eventually(lambda: client.get(f"/api/v1/transactions/{id}").json()["status"] == "blocked")
    assert id not in [review["id"] for review in client.get("/api/v1/reviews").json()["reviews"]]


def test_a_listener_that_comes_back_misses_nothing(deployed: Deployed) -> None:
    """The gateway is restarted in the middle; the client resumes from its positions."""

    def restart(running: Deployed) -> None:
        running.stack.restart("gateway")
        time.sleep(0.5)
        running.stack.wait_ready(["gateway"], 60)

    outcome = Scenario(deployed, events=600, rate=100, seed=12, disturb=restart).run()
    outcome.check()
    assert outcome.reconnects >= 1


def _eventually(told: Callable[[], bool], within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if told():
            return True
        time.sleep(0.05)
    return False


def test_results_of_one_tenant_are_not_pushed_to_another(deployed: Deployed, client: httpx.Client) -> None:
    from gateway.client import GatewayClient, Listening

    event = payment(3)

    async def listen() -> list[str]:
        seen: list[str] = []
        state = Listening()
        async with GatewayClient(deployed.url, deployed.key("test-stranger")) as stranger:

            async def follow() -> None:
                async for pushed in stranger.listen("fraud", state=state):
                    seen.append(pushed.data["id"])

            task = asyncio.create_task(follow())
            await asyncio.wait_for(state.subscribed.wait(), 20)
            await asyncio.to_thread(
                lambda: client.post("/api/v1/pipelines/fraud/events", json=event).raise_for_status()
            )
            await asyncio.to_thread(decided, client, event["id"])
            await asyncio.sleep(0.3)
            task.cancel()
        return seen

    assert event["id"] not in asyncio.run(listen())
