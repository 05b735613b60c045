"""Model management: what serves can be seen, is proven, and cannot be taken away by mistake."""

import json
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.asking.world import until
from tests.integration.levels.measuring import Measure, expecting
from tests.integration.levels.processes import ROOT
from tests.integration.levels.swapping import MODELS, NAME, active, model

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


def command(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "models", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_serves_is_healthy_on_all_workers(client: httpx.Client, measure: Measure) -> None:
    with measure.timed("all models, over HTTP"):
        told = client.get(MODELS, **expecting(200)).json()
    assert NAME in [one["model"] for one in told["models"]]
    # that of the stream, and that of those who ask
    found = until(lambda: (one := model(client))["instances"] == 2 and one, "both workers are there", 60)
    (serving,) = [one for one in found["versions"] if one["version"] == found["active"]]
    assert (serving["state"], serving["instances"]) == ("active", 2)
    assert serving["health"] >= 0.8


def test_the_command_line_and_the_routes_say_the_same(client: httpx.Client) -> None:
    listed = command("list", "--json")
    (champion,) = [row for row in listed if "champion" in row["aliases"] and row.get("name", NAME) == NAME]
    assert champion["version"] == active(client)
    assert champion["state"] == "complete"


def test_what_serves_is_what_was_signed(client: httpx.Client) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "models", "verify", NAME, active(client)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_serves_cannot_be_removed_and_a_stale_command_does_nothing(client: httpx.Client) -> None:
    before = model(client)
    serving = f"{NAME}:{before['active']}"
    refused = client.delete(f"{MODELS}/{serving}", **expecting(409))
    assert (refused.status_code, refused.json()["code"]) == (409, "model_in_use")
    stale = {"target": serving, "expected_revision": max(before["revision"] - 1, 0)}
    answer = client.post(f"{MODELS}/swap", json=stale, **expecting(400, 409))
    assert answer.json()["code"] in ("stale_revision", "swap_unsafe")
    near = client.get(f"{MODELS}/frau", **expecting(404))
    assert NAME in near.json()["mend"]
    assert model(client)["active"] == before["active"]
