"""Processes are recognised by pid and start time; logs stay bounded."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.process import Identity, describe_exit, end, spawn, trim_log


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = spawn(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env=os.environ,
        cwd=str(tmp_path),
        log=tmp_path / "log",
    )
    yield process
    process.kill()
    process.wait()


def reap_in_background(process: subprocess.Popen[bytes]) -> None:
    """`end` works on other people's children; ours would stay behind as a zombie until waited for."""
    threading.Thread(target=process.wait, daemon=True).start()


def test_the_recorded_process_is_ended(sleeper: subprocess.Popen[bytes]) -> None:
    identity = Identity.of(sleeper.pid)
    assert identity is not None
    assert identity.process() is not None
    reap_in_background(sleeper)
    assert end([(identity, signal.SIGTERM)], 10) == [sleeper.pid]
    assert identity.process() is None


def test_a_pid_that_was_given_to_another_process_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    identity = Identity.of(sleeper.pid)
    assert identity is not None
    earlier = Identity(sleeper.pid, identity.started - 100)
    assert earlier.process() is None
    assert end([(earlier, signal.SIGKILL)], 1) == []
    assert sleeper.poll() is None


def test_a_process_that_ignores_the_signal_is_killed_with_its_group(tmp_path: Path) -> None:
    script = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    log = tmp_path / "log"
    process = spawn([sys.executable, "-c", script], env=os.environ, cwd=str(tmp_path), log=log)
    deadline = time.monotonic() + 10
    while not log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child = Identity.of(int(log.read_text()))
    identity = Identity.of(process.pid)
    assert child is not None
    assert identity is not None
    reap_in_background(process)
    end([(identity, signal.SIGTERM)], 0.2)
    assert identity.process() is None
    deadline = time.monotonic() + 5
    while child.process() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_exits_are_told_by_name() -> None:
    assert describe_exit(3) == "code 3"
    assert describe_exit(-9) == "signal SIGKILL"


def test_a_log_over_its_limit_keeps_its_newest_half_and_its_writer(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab") as writer:
        writer.write(b"old" * 400 + b"new" * 200)
        writer.flush()
        assert trim_log(log, limit=1000)
        assert log.stat().st_size == 0
        assert (tmp_path / "log.1").read_bytes() == (b"new" * 200)[-500:]
        writer.write(b"more")
        writer.flush()
        assert log.read_bytes() == b"more"
        assert not trim_log(log, limit=1000)
