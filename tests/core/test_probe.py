"""The probe answers for a process: healthy, failing with the reason, hung, ready."""

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from core.telemetry.probe import Probe, ProbeServer


def eventually(told: Callable[[], bool], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if told():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def served() -> Iterator[tuple[Probe, httpx.Client]]:
    probe = Probe(interval_s=0.02, stale_after_s=0.2)
    server = ProbeServer(probe, port=0).start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield probe, client
    probe.close()
    server.stop()


def test_a_process_is_not_ready_before_it_says_so(served: tuple[Probe, httpx.Client]) -> None:
    probe, client = served
    assert client.get("/ready").status_code == 503
    probe.set_ready(True)
    assert client.get("/ready").status_code == 200
    probe.set_ready(False, "the model is being loaded")
    assert client.get("/ready").json()["reason"] == "the model is being loaded"


def away() -> None:
    raise ConnectionError("no route")


def status_of(client: httpx.Client) -> tuple[int, str]:
    answer = client.get("/health")
    return answer.status_code, answer.json()["status"]


def test_a_dependency_that_is_away_is_named_and_is_no_reason_to_restart(
    served: tuple[Probe, httpx.Client],
) -> None:
    probe, client = served
    assert status_of(client) == (200, "ok")
    probe.check("redis", away)
    assert eventually(lambda: status_of(client) == (200, "degraded"))
    assert client.get("/health").json()["checks"]["redis"] == "ConnectionError: no route"


def test_a_vital_check_that_fails_is_a_reason_to_restart(served: tuple[Probe, httpx.Client]) -> None:
    probe, client = served
    probe.check("model", away, vital=True)
    assert eventually(lambda: status_of(client) == (503, "failing"))


def test_a_check_that_hangs_is_told_and_the_answer_stays_quick(
    served: tuple[Probe, httpx.Client],
) -> None:
    probe, client = served
    released = threading.Event()
    probe.check("database", lambda: (released.wait(10), None)[1])
    assert eventually(lambda: status_of(client) == (200, "degraded"))
    assert "no answer" in client.get("/health").json()["checks"]["database"]
    released.set()
    assert eventually(lambda: status_of(client) == (200, "ok"))


def test_a_loop_that_stops_beating_makes_the_process_unhealthy(
    served: tuple[Probe, httpx.Client],
) -> None:
    probe, client = served
    probe.beat("loop", within_s=0.1)
    assert eventually(lambda: client.get("/health").status_code == 503)
    probe.beat("loop", within_s=60)
    assert client.get("/health").status_code == 200


def test_metrics_have_the_restart_counter(served: tuple[Probe, httpx.Client]) -> None:
    _, client = served
    assert "millstream_restarts " in client.get("/metrics").text


def test_an_unknown_path_is_404(served: tuple[Probe, httpx.Client]) -> None:
    assert served[1].get("/etc/passwd").status_code == 404
