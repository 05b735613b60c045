"""A model that hangs: the declared decision answers in its place, and an alert tells of it."""

from pathlib import Path

import httpx
import pytest

from stack.local import Stack
from tests.asking.world import payment, until, world
from tests.jobs.worker.on_kafka import Alerts

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


def test_a_model_that_hangs_is_answered_for_and_raises_an_alert(stack: Stack, tmp_path: Path) -> None:
    """The declared decision, with a warning; and the rate of what the model did not answer."""
    file = tmp_path / "rates.toml"
    file.write_text('[[threshold]]\noperator = "infer"\nrate = 0.5\nminutes = 1\ncalls = 5\n')
    impatient = {"MILLSTREAM_ALERTING__THRESHOLDS": str(file), "MILLSTREAM_ALERTING__PERIOD_S": "0.1"}
    with world(stack.settings) as here:
        told = Alerts(here.domain)
        gateway, hanging = here.start("gateway"), here.start("levels", "60000", **impatient)
        gateway.wait_ready()
        hanging.wait_ready()
        with here.client(gateway) as http:
            for _ in range(5):
                answer = http.post(here.path, json=payment(ms=5000), headers={"prefer": "wait=60"})
                assert answer.status_code == 200, answer.text
                body = answer.json()
                assert (body["decision"], body["level"], body["degraded"]) == ("review", "static", True)
                assert (body["score"], body["model_version"]) == (None, None)
                assert body["warning"].startswith("answered by static: version 1")
        until(lambda: told.kinds() == ["error_rate"], "the alert is raised", 60)
        assert told.all()[0].subject == "infer"
        assert 'fallback_answers_total{chain="' in httpx.get(f"{hanging.url}/metrics").text
        assert hanging.stop() == 0, "what hangs keeps no process"
