"""Health: every process says how it is, and the gateway says so fast enough for a load balancer."""

import httpx
import pytest

from stack.unit import Kind
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.scenario import Deployed

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
PROBES = ("/livez", "/startupz", "/health", "/ready", "/readyz")
NEEDED = {"database", "kafka", "registry"}


def test_the_gateway_answers_a_load_balancer_without_a_key(deployed: Deployed, measure: Measure) -> None:
    with measure.client(deployed.url) as probe:
        for path in PROBES:
            assert probe.get(path, **expecting(200)).status_code == 200, path
        checks = probe.get("/readyz?verbose").json()["checks"]
        assert checks.keys() >= NEEDED
        assert {checks[name] for name in NEEDED} == {"ok"}
        for _ in range(50):
            for path in ("/health", "/ready"):
                with measure.timed("health"):
                    answer = probe.get(path, **expecting(200))
                assert answer.json()["status"] in ("ok", "degraded", "ready")


def test_health_is_told_while_the_gateway_works(
    deployed: Deployed, client: httpx.Client, measure: Measure
) -> None:
    """Between requests that wait for Kafka and the model."""
    with measure.client(deployed.url) as probe:
        for _ in range(50):
            assert client.get("/api/v1/features/card_activity/nobody", **expecting(200)).status_code == 200
            with measure.timed("health"):
                probe.get("/health", **expecting(200))


def test_every_process_has_its_three_probes(deployed: Deployed, measure: Measure) -> None:
    jobs = [row for row in deployed.stack.status() if row.kind == Kind.JOB]
    assert {"gateway", "fraud-flink", "fraud-worker", "fraud-answering", "fraud-writer", "rollout"} <= {
        job.name for job in jobs
    }
    for job in jobs:
        assert job.address, f"{job.name} has no probe"
        with measure.client(job.address) as probe:
            assert probe.get("/health", **expecting(200)).json()["status"] in ("ok", "degraded"), job.name
            assert probe.get("/ready", **expecting(200)).json() == {"status": "ready"}, job.name
            assert "millstream_restarts" in probe.get("/metrics", **expecting(200)).text, job.name
