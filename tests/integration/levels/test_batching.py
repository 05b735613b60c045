"""Batching: many who ask at once are scored together, and each is given its own answer."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from core.ids import new_id
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.scenario import Deployed
from tests.integration.test_asking import INFER
from tests.integration.test_requests import payment

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
AT_ONCE, ROUNDS = 24, 4
SUM = re.compile(r'^millstream_answering_batch_records_(sum|count)\{pipeline="fraud"\} (\S+)$', re.MULTILINE)


def scored_and_calls(deployed: Deployed) -> tuple[float, float]:
    """Records that the answering process has scored, and calls of the model that it made."""
    text = httpx.get(f"{deployed.stack.unit('fraud-answering').address}/metrics", timeout=30).text
    found = dict(SUM.findall(text))
    return float(found.get("sum", 0)), float(found.get("count", 0))


def test_who_asks_beside_others_gets_the_answer_that_it_would_get_alone(
    deployed: Deployed, client: httpx.Client, measure: Measure
) -> None:
    """Cards that nobody has seen, so that the answer to one payment is the same however often it is asked."""
    events = [payment(row, card_id=f"card-{new_id()[-8:]}") for row in range(AT_ONCE)]

    def ask(event: dict[str, Any]) -> dict[str, Any]:
        headers = {"idempotency-key": new_id(), "cache-control": "no-cache"}
        began = time.perf_counter()
        answer = client.post(INFER, json=event, headers=headers, **expecting(200))
        measure.add(f"asked, {AT_ONCE} at once", (time.perf_counter() - began) * 1000)
        found: dict[str, Any] = answer.json()
        return found

    alone = [client.post(INFER, json=event, **expecting(200)).json() for event in events]
    before = scored_and_calls(deployed)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(ROUNDS):
            together = list(pool.map(ask, events))
            assert [one["score"] for one in together] == pytest.approx(
                [one["score"] for one in alone], rel=1e-5
            )
            assert [one["decision"] for one in together] == [one["decision"] for one in alone]
    after = scored_and_calls(deployed)
    records, calls = (now - then for now, then in zip(after, before, strict=True))
    assert records == ROUNDS * AT_ONCE
    assert calls < records, "one call of the model for each: nothing was batched"
    measure.add("records in a call of the model", records / calls, unit="records")
    assert len({one["score"] for one in alone}) > 1


def test_a_batch_of_events_is_taken_or_refused_one_by_one(client: httpx.Client) -> None:
    good, bad = payment(), payment()
    bad["amount_cents"] = "much"
    answer = client.post("/api/v1/pipelines/fraud/events", json=[good, bad, good], **expecting(207))
    told = answer.json()
    assert (told["accepted"], told["refused"]) == (2, 1)
    assert [one["status"] for one in told["outcomes"]] == [202, 422, 202]
