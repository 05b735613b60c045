"""Failover: where the active version breaks the one before it answers, and for a gateway another one."""

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from cli.jobs import job_specs
from core.ids import new_id
from stack.unit import JobSpec
from tests.asking.world import until
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.levels.swapping import active, another, changed, loaded
from tests.integration.scenario import READY_S, Deployed
from tests.integration.test_asking import INFER
from tests.integration.test_requests import payment
from tests.integration.test_two_gateways import GATEWAYS, balanced, kill

__all__ = ["balanced"]
pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
ROUNDS, ASKERS = 5, 2
PAUSE_S = 0.01
ANSWERING = "fraud-answering"
FEATURES = "/api/v1/features/card_activity/nobody"


@pytest.fixture
def breaks(deployed: Deployed, tmp_path: Path) -> Iterator[Path]:
    """While this file exists the version that it names raises, in the process that answers."""
    file = tmp_path / "breaks"
    (usual,) = [spec for spec in job_specs([deployed.plan], deployed.settings) if spec.name == ANSWERING]
    argv = (sys.executable, "-m", "tests.integration.levels.processes", str(file))
    try:
        exchanged(deployed, replace(usual, argv=argv, cwd=str(Path(__file__).resolve().parents[3])))
        yield file
    finally:
        file.unlink(missing_ok=True)
        exchanged(deployed, usual)


def exchanged(deployed: Deployed, spec: JobSpec) -> None:
    deployed.stack.remove_job(spec.name)
    deployed.stack.add_job(spec)
    deployed.stack.wait_ready([spec.name], READY_S)


@dataclass
class Answers:
    """What independent askers were told, in the order of their answers' arrival."""

    client: httpx.Client
    told: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Answers":
        self._threads = [threading.Thread(target=self._ask) for _ in range(ASKERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        while not self.stopped.is_set():
            headers = {"idempotency-key": new_id(), "cache-control": "no-cache"}
            answer = self.client.post(INFER, json=payment(), headers=headers, **expecting(200))
            self.told.append((time.perf_counter(), answer.json()))

    def first(self, since: float, version: str) -> tuple[float, dict[str, Any]]:
        """The first answer of a version that arrived after `since`, and when."""
        deadline = time.monotonic() + 60
        while True:
            found = [one for one in list(self.told) if one[0] > since and one[1]["model_version"] == version]
            if found:
                return found[0]
            assert time.monotonic() < deadline, f"version {version} does not answer: {self.told[-3:]}"
            time.sleep(0.001)


def test_the_version_before_answers_for_the_one_that_broke(
    deployed: Deployed, client: httpx.Client, measure: Measure, breaks: Path
) -> None:
    for _ in range(ROUNDS):
        before = active(client)
        version = another(deployed, before)
        loaded(client, version)
        changed(client, version)
        with Answers(client) as answers:
            answers.first(time.perf_counter(), version)
            breaks.write_text(version)
            broke = time.perf_counter()
            over, told = answers.first(broke, before)
            measure.add("failover", (over - broke) * 1000)
            assert told["degraded"], told
            assert f"version {version}" in told["warning"], told
            answers.first(over + 0.2, before)
        assert all(body["score"] is not None for _, body in answers.told), "somebody had no score"
        assert {body["model_version"] for at, body in answers.told if at > over + 0.1} == {before}
        breaks.unlink()
        changed(client, before)  # what broke is left behind


def test_another_gateway_answers_for_one_that_died(balanced: Deployed, measure: Measure, tenant: str) -> None:
    """The slowest of the answers that a client of the balancer was waiting for, or asked for, when one was
    killed; each is a success."""
    with measure.client(balanced.url, balanced.key(tenant)) as client:
        assert client.get(FEATURES, **expecting(200)).status_code == 200
        for gateway in GATEWAYS:
            waits: list[tuple[float, float]] = []
            stopped = threading.Event()

            def ask() -> None:
                while not stopped.is_set():  # noqa: B023
                    began = time.perf_counter()
                    answer = client.get(FEATURES, **expecting(200))
                    assert answer.status_code == 200, answer.text
                    waits.append((began, time.perf_counter()))  # noqa: B023
                    time.sleep(PAUSE_S)

            asking = [threading.Thread(target=ask) for _ in range(ASKERS)]
            for thread in asking:
                thread.start()
            try:
                until(lambda: len(waits) > 20, "it answers")  # noqa: B023
                died = time.perf_counter()
                kill(balanced, balanced, gateway)
            finally:
                stopped.set()
                for thread in asking:
                    thread.join(60)
            after = [ended - max(began, died) for began, ended in waits if ended > died]
            assert len(after) > 20, "somebody stopped asking"
            measure.add("gateway failover", max(after) * 1000)
