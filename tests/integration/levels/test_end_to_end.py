"""End to end: payments in, verdicts pushed, features right, what is sent twice once."""

import asyncio
import time
from datetime import UTC, datetime

import httpx
import pytest

from gateway.client import GatewayClient, Listening
from pipelines.changes import apply_topics
from pipelines.generating import TOPICS
from stack.unit import Kind
from tests.deploy.dashboard import problems, queries, series
from tests.deploy.promql import parse, selectors
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.levels.processes import serving_directly, started
from tests.integration.scenario import Deployed, Scenario
from tests.integration.test_requests import payment
from tests.llm_real import RealServer

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


def test_every_query_of_the_dashboard_finds_what_it_asks_for(
    deployed: Deployed, measure: Measure, small_model: RealServer
) -> None:
    """In what all processes expose, those that the other suites start beside them included."""
    apply_topics(TOPICS, deployed.settings)
    url = {"MILLSTREAM_LLM__URL": f"{small_model.model}={small_model.url}"}
    with started("generating", **url) as generating, serving_directly() as serving:
        addresses = [row.address for row in deployed.stack.status() if row.kind == Kind.JOB and row.address]
        told = []
        for address in (*addresses, generating, serving):
            with measure.client(address) as http:
                told.append(http.get("/metrics", **expecting(200)).text)
    metrics = series(*told)
    wrong = {str(query): found for query in queries() if (found := problems(query, metrics))}
    assert not wrong
    seen = {name for name, one in metrics.items() if one.labels is not None}
    asked = {selector.metric for query in queries() for selector in selectors(parse(query.text))}
    assert len(asked & seen) > 0.5 * len(asked), "of most there is something to be seen"
