"""The fraud pipeline asked: the score that a payment would get, before and after it is published."""

from collections.abc import Iterator

import httpx
import pytest

from core.ids import new_id
from tests.asking.world import until
from tests.integration.scenario import Deployed
from tests.integration.test_requests import decided, payment

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
INFER = "/api/v1/pipelines/fraud/infer"


@pytest.fixture
def client(deployed: Deployed) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {deployed.key(f'test-{new_id()[-10:]}')}"}
    with httpx.Client(base_url=deployed.url, headers=headers, timeout=30) as made:
        yield made


def counted(client: httpx.Client, card: str) -> int:
    found = client.get(f"/api/v1/features/card_activity/{card}").raise_for_status().json()
    value: int = found["features"]["count_7d"]["value"]
    return value


def test_the_asked_score_is_the_streamed_one(client: httpx.Client) -> None:
    """Asked before a payment is published, when all before it are known, and again after."""
    card = f"card-{new_id()[-8:]}"
    scores = []
    for row in range(6):
        event = payment(row, card_id=card)
        before = client.post(INFER, json=event, headers={"idempotency-key": new_id(), "prefer": "wait=20"})
        assert before.status_code == 200, before.text
        assert (
            client.get(f"/api/v1/transactions/{event['id']}").status_code == 404
        )  # asking publishes nothing
        assert client.post("/api/v1/pipelines/fraud/events", json=event).status_code == 202
        streamed = decided(client, event["id"])
        until(lambda: counted(client, card) == row + 1, "the payment is online")  # noqa: B023
        anew = {"idempotency-key": new_id(), "cache-control": "no-cache"}
        after = client.post(INFER, json=event, headers=anew)
        for asked in (before.json(), after.json()):
            assert asked["score"] == pytest.approx(streamed["score"], rel=1e-5)
            assert asked["decision"] == streamed["decision"]
            assert asked["model_version"] == streamed["model_version"]
            assert (asked["degraded"], asked["level"]) == (False, "live")
        scores.append(streamed["score"])
    assert len(set(scores)) > 1


def test_the_same_asked_again_is_answered_from_memory(client: httpx.Client) -> None:
    event = payment(0, card_id=f"card-{new_id()[-8:]}")
    del event["id"]
    first = client.post(INFER, json=event)
    again = client.post(INFER, json=event)
    assert again.headers["cache-status"].startswith("memory; hit")
    assert again.json()["score"] == first.json()["score"]
    assert again.json()["id"] != first.json()["id"]


def test_asking_leaves_the_features_as_they_were(client: httpx.Client) -> None:
    card = f"card-{new_id()[-8:]}"
    before = counted(client, card)
    for row in range(3):
        assert client.post(INFER, json=payment(row, card_id=card)).status_code == 200
    assert counted(client, card) == before == 0
