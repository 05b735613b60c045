"""Trainings over HTTP and Kafka, on the local stack: asked for, run by the scheduler, seen, acknowledged."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.settings import settings
from pipelines.changes import apply_topics
from pipelines.recorded import read
from schemas.catalog.experiments import EXPERIMENTS
from schemas.catalog.training import NOTICES, TOPICS
from stack.local import Stack
from tests.gateway.running import RunningGateway, eventually
from tests.stack_fixture import environment

ROOT = Path(__file__).parents[2]
JOBS = "/api/v1/training/jobs"
TOML = """
name = "fraud"
pipeline = "fraud"
inputs = 40
source = { kind = "generated", rows = 20_000 }
target = { column = "is_fraud", classes = ["legitimate", "fraud"] }
split = { test_rows = 4_000, gap_days = 0.5 }
trees = { trees = 20, depth = 4, learning_rate = 0.3 }
evaluation = { origins = 0, bootstrap = 50, without_views = false }
[search]
trials = 0
rows = 2_000
folds = 2
[search.space]
depth = { low = 2, high = 4 }
"""


@pytest.fixture(scope="module")
def gateway(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("configurations")
    (folder / "fraud.toml").write_text(TOML)
    with environment({"MILLSTREAM_TRAINING__CONFIGURATIONS": str(folder)}):
        apply_topics([*TOPICS, EXPERIMENTS], settings())
        with RunningGateway(settings()) as running:
            with running.http() as client:  # ready before it knows what trainings there are
                eventually(lambda: client.get(JOBS).status_code == 200, "trainings can be seen")
            yield running


@pytest.fixture
def scheduler(gateway: RunningGateway) -> Iterator["subprocess.Popen[bytes]"]:
    running = scheduled()
    yield running
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 0


def scheduled() -> "subprocess.Popen[bytes]":
    here = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen([sys.executable, "-m", "cli", "run", "training"], env=os.environ | here, cwd=ROOT)


def until(client: httpx.Client, path: str, *states: str, within_s: float = 250.0) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    while (job := client.get(path).json()).get("state") not in states:
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
    return job  # type: ignore[no-any-return]


def test_a_training_is_answered_at_once_and_seen_to_its_end(
    gateway: RunningGateway, scheduler: "subprocess.Popen[bytes]"
) -> None:
    with gateway.http() as client, gateway.http("other") as stranger:
        asked = client.post(JOBS, json={"model": "fraud", "search": {"trials": 2}})
        assert asked.status_code == 202, asked.text
        path = asked.headers["location"]
        assert path == f"{JOBS}/{asked.json()['id']}"
        assert client.get(path).json()["state"] in ("scheduled", "queued", "running")
        assert stranger.get(path).status_code == 404
        assert client.post(f"{path}/acknowledge").status_code == 409
        job = until(client, path, "succeeded", "needs_attention", "failed")
        assert job["state"] == "succeeded", job
        assert job["trials"] == {"done": 2, "all": 2}
        assert job["stages"]["done"] == job["stages"]["all"] > 5
        assert 0.5 < job["metrics"]["auc"] <= 1.0
        assert path.endswith(client.get(JOBS).json()["jobs"][0]["id"])
        assert client.post(f"{path}/acknowledge").status_code == 202
        deadline = time.monotonic() + 120
        while "acknowledged" not in client.get(path).json():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        while not (states := notified(job["id"])):  # told after the state is
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert states == ["succeeded"]


def notified(job: str) -> list[str]:
    return [one["state"] for one in read(NOTICES, settings()).to_pylist() if one["id"] == job]


def test_a_killed_scheduler_goes_on_where_it_was(gateway: RunningGateway) -> None:
    first = scheduled()
    with gateway.http() as client:
        path = client.post(JOBS, json={"model": "fraud"}).headers["location"]
        until(client, path, "queued", "running")
        first.kill()
        first.wait()
        second = scheduled()
        try:
            assert until(client, path, "succeeded", "failed")["state"] == "succeeded"
        finally:
            second.send_signal(signal.SIGTERM)
            assert second.wait(60) == 0


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        ({"model": "fraud", "serch": {}}, 422, "/serch"),
        (
            {"model": "fraud", "search": {"space": {"depth": {"low": 5, "high": 4}}}},
            422,
            "/search/space/depth",
        ),
        ({"model": "fraud", "target": {"classes": ["fraud"]}}, 422, "/target/classes"),
        ({"model": "fraud", "notifications": {"webhook": "http://inside"}}, 422, "/notifications"),
        ({"search": {"trials": 2}}, 422, "/model"),
        ([], 422, ""),
        ({"model": "frod"}, 404, None),
    ],
)
def test_what_is_wrong_is_refused_before_any_work(
    gateway: RunningGateway, body: Any, status: int, place: str | None
) -> None:
    with gateway.http() as client:
        before = len(client.get(JOBS).json()["jobs"])
        answer = client.post(JOBS, json=body)
        assert answer.status_code == status, answer.text
        if place is not None:
            assert place in [one["pointer"] for one in answer.json()["errors"]]
        assert len(client.get(JOBS).json()["jobs"]) == before


def test_other_ways_to_be_wrong(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        assert (
            client.post(JOBS, content=b"{", headers={"content-type": "application/json"}).status_code == 400
        )
        assert client.post(JOBS, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
        assert client.get(f"{JOBS}/none").status_code == 404
        key = gateway.key(scopes=["events:write"])
        bare = {"authorization": f"Bearer {key}"}
        assert client.post(JOBS, json={"model": "fraud"}, headers=bare).status_code == 403
        assert client.get(JOBS, headers=bare).status_code == 403
