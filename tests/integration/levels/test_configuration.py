"""Configuration: what is set is what runs, told with its origin; what makes no sense does not start."""

import json
import os
import subprocess
import sys

import pytest

from cli.deploy_commands import compare_all
from pipelines.changes import Action
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.levels.processes import ROOT, gateway
from tests.integration.scenario import Deployed
from tests.stack_fixture import free_ports

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


def millstream(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_is_deployed_is_what_is_declared(deployed: Deployed, measure: Measure) -> None:
    """So that applying once more changes nothing."""
    with measure.timed("plan against what runs"):
        changes = compare_all([deployed.plan], deployed.settings)
    assert changes
    assert [change for change in changes if change.action is not Action.KEEP] == []


def test_every_setting_says_where_it_comes_from(deployed: Deployed) -> None:
    done = millstream("config", "show", "--origin", "-o", "json", MILLSTREAM_LIMITS__LATE_MS="70")
    shown = json.loads(done.stdout)
    assert shown["limits.late_ms"] == {"value": "70.0", "origin": "environment MILLSTREAM_LIMITS__LATE_MS"}
    port = shown["gateway.port"]
    assert port["value"] == str(deployed.settings.gateway.port)
    assert port["origin"].startswith("environment")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("MILLSTREAM_GATEWAY__PORT", "eighty", "port"),
        ("MILLSTREAM_LIMITS__KEY__PER_S", "-1", "per_s"),
        ("MILLSTREAM_LIMITS__ROUTES", '{"POST /api/v1/model/swap": {"per_s": 1, "burst": 1}}', "models/swap"),
        ("MILLSTREAM_ISSUER__NAME", "https://login.example/", "jwks"),
        ("MILLSTREAM_GATEWAY__CERTIFICATE", "/nowhere/chain.pem", "certificate"),
    ],
)
def test_a_gateway_that_is_set_wrongly_does_not_start_and_says_why(
    deployed: Deployed, variable: str, value: str, told: str
) -> None:
    (port,) = free_ports(1)
    env = {"MILLSTREAM_GATEWAY__PORT": str(port)} | {variable: value}
    done = millstream("run", "gateway", "-p", deployed.plan.pipeline, **env)
    assert done.returncode != 0
    assert told in done.stderr + done.stdout, done.stderr


def test_a_limit_that_is_set_is_the_limit_that_is_kept(
    deployed: Deployed, measure: Measure, tenant: str
) -> None:
    path = "/api/v1/models"
    routes = json.dumps({f"GET {path}": {"per_s": 0.01, "burst": 2}})
    with (
        gateway(MILLSTREAM_LIMITS__ROUTES=routes) as url,
        measure.client(url, deployed.key(tenant)) as client,
    ):
        statuses = [client.get(path, **expecting(200, 429)).status_code for _ in range(6)]
        assert statuses.count(200) == 2, statuses
        assert set(statuses[2:]) == {429}
