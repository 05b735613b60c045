"""Rate limiting: a caller has what it was given, is told what is left, and takes nothing from others."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.integration.levels.measuring import Measure, expecting
from tests.integration.levels.processes import gateway
from tests.integration.scenario import Deployed

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
PATH = "/api/v1/features/card_activity/nobody"
PER_S, BURST = 10.0, 20
SLACK = 0.2
"""Seconds' worth by which one gateway may overshoot: a lease of a tenth, at the beginning and at the end."""


@pytest.fixture(scope="module")
def limited(deployed: Deployed) -> Iterator[str]:
    """A gateway that gives each key little."""
    del deployed
    env = {"MILLSTREAM_LIMITS__KEY__PER_S": f"{PER_S}", "MILLSTREAM_LIMITS__KEY__BURST": f"{BURST}"}
    with gateway(**env) as url:
        yield url


def test_a_runaway_key_gets_its_share_and_is_told_when_to_come_back(
    deployed: Deployed, measure: Measure, tenant: str, limited: str
) -> None:
    with (
        measure.client(limited, deployed.key(tenant)) as greedy,
        measure.client(limited, deployed.key(tenant)) as modest,
    ):
        first = greedy.get(PATH, **expecting(200))
        assert first.headers["ratelimit-policy"].startswith(f'"key";q={BURST}')

        def ask(_: int) -> httpx.Response:
            return greedy.get(PATH, **expecting(200, 429))

        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(10 * BURST)))
        took = time.monotonic() - began
        let_in = 1 + sum(answer.status_code == 200 for answer in answers)
        assert BURST <= let_in <= BURST + PER_S * (took + SLACK) + 1
        measure.add("let in, of what was due", 100 * let_in / (BURST + PER_S * took), unit="%")
        assert modest.get(PATH, **expecting(200)).status_code == 200, "another key of the same tenant"

        (refused,) = {answer.status_code for answer in answers} - {200}
        assert refused == 429
        last = next(answer for answer in reversed(answers) if answer.status_code == 429)
        problem = last.json()
        assert (problem["code"], problem["retryable"]) == ("rate_limited", True)
        assert ";r=0;" in last.headers["ratelimit"]
        time.sleep(int(last.headers["retry-after"]))  # as a client that does what it is told
        assert greedy.get(PATH, **expecting(200)).status_code == 200


def test_probes_are_answered_however_much_is_asked(
    deployed: Deployed, measure: Measure, tenant: str, limited: str
) -> None:
    with measure.client(limited, deployed.key(tenant)) as greedy:
        for _ in range(3 * BURST):
            greedy.get(PATH, **expecting(200, 429))
            assert greedy.get("/health", **expecting(200)).status_code == 200
        lines = greedy.get("/metrics", **expecting(200)).text.splitlines()
    (counted,) = [line for line in lines if line.startswith('millstream_gateway_limited_total{limit="key"}')]
    assert float(counted.rpartition(" ")[2]) >= BURST
