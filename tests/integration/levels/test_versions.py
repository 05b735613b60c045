"""Versions: another one goes into service under load, nobody notices, and the way back is one command."""

import itertools
import threading
import time

import httpx
import pytest

from core.errors import ModelRefused
from core.ids import new_id
from models.registry import open_registry
from models.store import MODEL
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.levels.swapping import MODELS, NAME, active, another, changed, loaded
from tests.integration.scenario import Deployed
from tests.integration.test_asking import INFER
from tests.integration.test_requests import decided, payment

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


def test_a_swap_under_load_loses_no_answer_and_is_undone_by_one_command(
    deployed: Deployed, client: httpx.Client, measure: Measure
) -> None:
    first = active(client)
    second = another(deployed, first)
    loaded(client, second)
    stopped, versions = threading.Event(), list[str]()

    def ask() -> None:
        while not stopped.is_set():
            headers = {"idempotency-key": new_id(), "cache-control": "no-cache"}
            answer = client.post(INFER, json=payment(), headers=headers, **expecting(200)).json()
            assert not answer["degraded"], answer
            versions.append(answer["model_version"])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with measure.timed("swap, as asked for over HTTP"):
            told = changed(client, second)
        assert (told["previous"], told["target"]) == (f"{NAME}:{first}", f"{NAME}:{second}")
        assert active(client) == second
        event = payment()
        client.post("/api/v1/pipelines/fraud/events", json=event, **expecting(202))
        assert decided(client, event["id"])["model_version"] == second
        back = client.post(f"{MODELS}/rollback", json={"model": NAME}, **expecting(200))
        assert back.json()["target"] == f"{NAME}:{first}", back.text
        seen, deadline = len(versions), time.monotonic() + 30
        while first not in versions[seen:]:
            assert time.monotonic() < deadline, "nobody is answered by the version that came back"
            time.sleep(0.01)
    finally:
        stopped.set()
        asking.join(60)
    assert set(versions) == {first, second}
    changes = [one for one, next in itertools.pairwise(versions) if one != next]
    assert len(changes) <= 2, f"back and forth: {changes}"


def test_what_does_not_load_is_refused_before_it_is_a_version(
    deployed: Deployed, client: httpx.Client
) -> None:
    before = active(client)
    cut = open_registry(deployed.settings).resolve(NAME, before).read(MODEL)[:1000]
    with pytest.raises(ModelRefused):
        another(deployed, before, **{MODEL: cut})
    swap = client.post(f"{MODELS}/swap", json={"target": f"{NAME}:9999"}, **expecting(400))
    assert (swap.status_code, swap.json()["code"]) == (400, "swap_unsafe")
    assert "exists_and_ready" in swap.json()["failed"]
    assert active(client) == before
