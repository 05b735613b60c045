"""The schedule of corrections, with passes that are real processes; and one of the real ones, killed."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.jobs import job_specs
from core.settings import Corrections, settings
from core.telemetry.metrics import exposition
from core.telemetry.probe import Probe
from jobs.batch.corrections import Corrector
from pipelines.load import load_plan
from tests.stack_fixture import free_ports

FOUND = json.dumps({"changed": 3, "sent": 2, "waiting": 1, "seconds": 0.5})


def a_pass(log: Path, then: str) -> list[str]:
    """A pass that says when it began, and then does something."""
    begun = f"import os, time; f = open({str(log)!r}, 'a'); f.write(f'{{time.monotonic()}}\\n'); f.close()"
    return [sys.executable, "-c", f"{begun}; {then}"]


@contextmanager
def correcting(command: list[str], pipeline: str, **given: float) -> Iterator[tuple[Probe, threading.Thread]]:
    probe = Probe(interval_s=0.05)
    corrector = Corrector(pipeline, command, Corrections(**given), probe)
    thread = threading.Thread(target=corrector.run)
    thread.start()
    try:
        yield probe, thread
    finally:
        corrector.stop()
        thread.join(20)
        probe.close()
        assert not thread.is_alive()


def metric(name: str, text: str = "", **labels: str) -> float:
    for family in text_string_to_metric_families(text or exposition().decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


def eventually(done: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def begun(log: Path) -> list[float]:
    return [float(line) for line in log.read_text().split()] if log.exists() else []


def test_there_is_a_pass_each_period_and_its_figures_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with correcting(a_pass(log, f"print({FOUND!r})"), "each", period_s=0.3):
        eventually(lambda: len(begun(log)) >= 3, "three passes")
        passes = lambda: metric("millstream_correction_passes_total", pipeline="each", outcome="done")  # noqa: E731
        eventually(lambda: passes() >= 3, "they are counted")
    times = begun(log)
    assert all(later - earlier >= 0.3 for earlier, later in itertools.pairwise(times))
    assert metric("millstream_correction_rows_total", pipeline="each") == 2 * passes()
    assert metric("millstream_correction_waiting_partitions", pipeline="each") == 1


def test_a_pass_that_fails_is_told_and_the_next_one_comes(tmp_path: Path) -> None:
    log, mended = tmp_path / "log", tmp_path / "mended"
    then = f"print({FOUND!r}) if os.path.exists({str(mended)!r}) else os._exit(3)"
    with correcting(a_pass(log, then), "fails", period_s=0.1) as (probe, _):
        eventually(lambda: "ended with 3" in probe.health()[1]["checks"]["last pass"], "it is told")
        assert probe.health()[0], "a restart would mend nothing"
        mended.touch()
        eventually(lambda: probe.health()[1]["status"] == "ok", "and it is over")


def test_a_pass_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with correcting(a_pass(log, "time.sleep(600)"), "long", period_s=0.1, limit_s=0.5) as (probe, _):
        eventually(lambda: len(begun(log)) >= 2, "another pass")
        assert "too_long" in probe.health()[1]["checks"]["last pass"]


def test_stopping_ends_the_pass_that_runs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with correcting(a_pass(log, "time.sleep(600)"), "stopped", period_s=0.1) as (_, thread):
        eventually(lambda: bool(begun(log)), "a pass")
        assert thread.is_alive()
        told = time.monotonic()
    assert time.monotonic() - told < 10
    assert metric("millstream_correction_passes_total", pipeline="stopped", outcome="failed") == 0


def test_pipelines_of_windows_have_corrections_and_the_others_none() -> None:
    for name, wanted in (("demand", True), ("sales", True), ("fraud", False)):
        names = [spec.name for spec in job_specs([load_plan(name)], settings())]
        assert (f"{name}-corrections" in names) is wanted


def test_the_process_ends_with_its_signal_and_tells_its_metrics(tmp_path: Path) -> None:
    """The real one, where no Kafka is: a pass fails, the process goes on."""
    (port,) = free_ports(1)
    more = {
        "MILLSTREAM_PROBE_PORT": str(port), "MILLSTREAM_CORRECTIONS__PERIOD_S": "0.2",
        "MILLSTREAM_CORRECTIONS__LIMIT_S": "20", "MILLSTREAM_HOME": str(tmp_path),
        "MILLSTREAM_KAFKA__BOOTSTRAP": "127.0.0.1:1", "MILLSTREAM_REGISTRY__URL": "http://127.0.0.1:1",
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "cli", "run", "corrections", "--pipeline", "sales"]
    with subprocess.Popen(command, env=os.environ | more, stderr=subprocess.DEVNULL) as process:

        def answer(path: str) -> Any:
            try:
                return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=2.0)
            except httpx.TransportError:
                return None

        try:
            eventually(lambda: (found := answer("/ready")) is not None and found.status_code == 200, "ready")
            assert "millstream_correction_passes" in answer("/metrics").text
            assert answer("/health").status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


@pytest.mark.parametrize("wrong", [{"period_s": 0}, {"limit_s": -1}])
def test_a_period_is_some_time(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Corrections(**wrong)
