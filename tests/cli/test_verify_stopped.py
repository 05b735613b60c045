"""`features verify --request` where nothing runs: it starts what it needs, judges, and leaves nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cli.stack_commands import local_stack
from core.settings import settings
from stack.local import Stack
from tests.stack_fixture import EXTERNAL_ADDRESSES, environment, stack_env

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


def test_a_view_is_verified_from_a_stopped_stack(stack: Stack, tmp_path: Path) -> None:
    del stack  # that it starts has been seen: what fails here is not a missing service
    home = tmp_path / "home"
    with environment(stack_env(home), without=EXTERNAL_ADDRESSES):
        assert not local_stack(settings()).running()
        command = [
            sys.executable,
            "-P",
            "-m",
            "cli",
            "features",
            "verify",
            "merchant_sales",
            "--request",
            "--json",
        ]
        done = subprocess.run(
            [*command, "--engine", "faust", "--rows", "400", "--seed", "5"],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3_000:]
        report = json.loads(done.stdout)
        (run,) = report["runs"]
        assert (report["ok"], run["engine"], run["recorded"]) == (True, "faust", False)
        assert (run["mismatched"], run["missing"], run["extra"]) == (0, 0, 0)
        assert run["checked"] > 20
        assert run["requests"]["reads"] > 100
        assert all(found["mismatched"] == 0 for found in run["requests"]["features"].values())
        assert not local_stack(settings()).running()
    left = [one.pid for one in psutil.process_iter(["environ"]) if _of(one, home)]
    assert not left, "it leaves nothing running"


def _of(process: psutil.Process, home: Path) -> bool:
    given = process.info["environ"] or {}
    return process.pid != os.getpid() and given.get("MILLSTREAM_HOME") == str(home)
