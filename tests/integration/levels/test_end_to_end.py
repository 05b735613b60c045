"""End to end: payments in, verdicts pushed, features right, what is sent twice once."""

import asyncio
import time
from datetime import UTC, datetime

import httpx
import pytest

from gateway.client import GatewayClient, Listening
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.scenario import Deployed, Scenario
from tests.integration.test_requests import payment

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
EVENTS = "/api/v1/pipelines/fraud/events"
PAYMENTS = 150


def test_every_payment_has_one_verdict_and_every_feature_is_right(deployed: Deployed) -> None:
    outcome = Scenario(deployed, events=600, rate=100, seed=21).run()
    outcome.check()
    assert len(outcome.tally.accepted) == 600


async def test_a_verdict_is_pushed_soon_after_its_payment(
    deployed: Deployed, measure: Measure, client: httpx.Client, tenant: str
) -> None:
    """One payment after the other, each timed from before it is sent to its verdict at the listener."""
    state, sent, pushed = Listening(), dict[str, float](), dict[str, float]()
    async with GatewayClient(deployed.url, deployed.key(tenant)) as listener:

        async def listen() -> None:
            async for event in listener.listen("fraud", state=state):
                pushed.setdefault(event.data["id"], time.perf_counter())

        listening = asyncio.create_task(listen())
        try:
            await asyncio.wait_for(state.subscribed.wait(), 60)
            for row in range(PAYMENTS):
                event = payment(row % 200, occurred_at=datetime.now(UTC).isoformat())
                sent[event["id"]] = time.perf_counter()
                answer = await asyncio.to_thread(client.post, EVENTS, json=event, **expecting(202))
                assert answer.status_code == 202, answer.text
            async with asyncio.timeout(90):
                while pushed.keys() < sent.keys():
                    await asyncio.sleep(0.01)
        finally:
            listening.cancel()
    for id, at in sent.items():
        measure.add("payment to pushed verdict", (pushed[id] - at) * 1000)
    for id in list(sent)[::10]:
        found = await asyncio.to_thread(client.get, f"/api/v1/transactions/{id}", **expecting(200))
        assert found.json()["status"] in ("blocked", "confirmed", "in_review")


def test_a_payment_that_is_sent_twice_is_one_payment(client: httpx.Client) -> None:
    event = payment()
    first, second = (client.post(EVENTS, json=event, **expecting(202)) for _ in range(2))
    assert second.headers.get("idempotent-replayed") == "true"
    assert first.json()["id"] == second.json()["id"]
