"""Endpoints: every documented route answers who may, and nobody else; prompts among them."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from core.ids import new_id
from pipelines.changes import apply_topics
from pipelines.generating import TOPICS
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.levels.processes import gateway, started
from tests.integration.scenario import Deployed
from tests.integration.test_asking import INFER
from tests.integration.test_requests import decided, payment
from tests.llm_real import RealServer

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
PROMPTS, TIMES = 6, 20
TOKENS = 40


@pytest.fixture(scope="module")
def prompted(deployed: Deployed, small_model: RealServer) -> Iterator[str]:
    """A gateway that takes prompts, and the process that has the real small model answer them."""
    apply_topics(TOPICS, deployed.settings)
    url = {"MILLSTREAM_LLM__URL": f"{small_model.model}={small_model.url}"}
    with started("generating", **url), gateway("--llm", **url) as made:
        yield made


def operations(client: httpx.Client) -> Iterator[tuple[str, str, dict[str, Any]]]:
    document = client.get("/openapi.json", **expecting(200)).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in ("get", "post", "put", "delete", "patch"):
                yield method.upper(), path, operation


def test_every_documented_route_is_there_and_closed_to_strangers(
    deployed: Deployed, client: httpx.Client, measure: Measure
) -> None:
    found = list(operations(client))
    assert len(found) > 20
    with measure.client(deployed.url) as stranger:
        for method, path, operation in found:
            place = path.replace("{", "").replace("}", "")
            answer = stranger.request(method, place, **expecting(200, 400, 401, 404, 422, 503))
            if operation["security"]:
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), place
            else:
                assert answer.status_code != 401, place
            refused = stranger.request("PROPFIND", place, **expecting(405))
            assert refused.status_code == 405, place


def test_every_route_without_parameters_answers_and_as_documented(client: httpx.Client) -> None:
    asked = 0
    for method, path, operation in operations(client):
        needs = [one for one in operation["parameters"] if one.get("required")]
        if method != "GET" or needs or "{" in path or path == "/api/v1/stream":
            continue
        answer = client.get(path, **expecting(200))
        assert str(answer.status_code) in operation["responses"], path
        assert answer.headers["x-request-id"]
        asked += 1
    assert asked >= 10


def test_a_payment_is_published_read_and_asked_about(client: httpx.Client, measure: Measure) -> None:
    for row in range(TIMES):
        event = payment(row, card_id=f"card-{new_id()[-8:]}")
        with measure.timed("published"):
            client.post("/api/v1/pipelines/fraud/events", json=event, **expecting(202))
        verdict = decided(client, event["id"])
        assert verdict["status"] in ("blocked", "confirmed", "in_review")
        with measure.timed("features read"):
            read = client.get(f"/api/v1/features/card_activity/{event['card_id']}", **expecting(200))
        assert read.json()["view"] == "card_activity"
        with measure.timed("asked"):
            answer = client.post(INFER, json=payment(row), **expecting(200)).json()
        assert not answer["degraded"]


def test_prompts_are_answered_at_the_speed_of_reading(
    deployed: Deployed, measure: Measure, tenant: str, prompted: str
) -> None:
    """Tokens by the time from the question to its whole answer, the gateway and Kafka included."""
    with measure.client(prompted, deployed.key(tenant), timeout=120) as client:
        for number in range(PROMPTS):
            prompt = f"Write {number + 3} sentences about rivers, mills and the sea."
            body = {"prompt": prompt, "max_tokens": TOKENS, "seed": number}
            answer = client.post("/api/v1/generate", json=body, **expecting(200))
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert told["text"].strip()
            assert not told["degraded"]
            if number:  # the first fills the server's caches
                took_s = answer.elapsed.total_seconds()
                measure.add("inference", told["usage"]["completion_tokens"] / took_s, unit="tokens/s")
        models = client.get("/v1/models", **expecting(200)).json()
        assert [one["id"] for one in models["data"]]
