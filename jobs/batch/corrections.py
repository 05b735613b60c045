"""Corrections on a schedule: each period one pass of `jobs.batch.correct`, in a process that ends with it.

    waiting ── period over ──> pass ── ended, or longer than its limit: killed ──> waiting
       └─ SIGTERM (also during a pass: it is ended) ──> exit

The pass is the command that a person would give, so that it leaves no memory behind: between two passes this
process holds nothing (ADR 13). One that fails or is killed has committed nothing that it had not sent; the
next one goes on from there. Health: the loop moves; a failed pass makes it degraded, never failing.
"""

import json
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

from core.errors import Unavailable
from core.settings import Corrections
from core.telemetry.log import logger
from core.telemetry.metrics import counter, gauge
from core.telemetry.probe import Probe, ProbeServer

_LOG = logger("jobs.corrections")
_END_S = 10.0
_SLACK_S = 30.0

PASSES = counter("correction_passes", "Passes, by how they ended", ("pipeline", "outcome"))
SENT = counter("correction_rows", "Corrected rows sent", ("pipeline",))
WAITING = gauge(
    "correction_waiting_partitions", "Partitions with late events whose windows are not closed", ("pipeline",)
)
SECONDS = gauge("correction_pass_seconds", "How long the last pass took", ("pipeline",))


class Corrector:
    """`run` in the main thread until `stop`, which a signal handler may call. command: one pass, which prints
    the fields of `jobs.batch.correct.Corrected` as one JSON object and ends with 0."""

    def __init__(self, pipeline: str, command: Sequence[str], settings: Corrections, probe: Probe) -> None:
        self._pipeline, self._command, self._settings = pipeline, tuple(command), settings
        self._probe = probe
        self._stopping = threading.Event()
        self._pass: subprocess.Popen[bytes] | None = None
        self._failed: str | None = None
        probe.check("last pass", self._last_pass)

    def run(self) -> None:
        """The first pass comes after one period."""
        self._probe.set_ready(True)
        while not self._stopping.is_set():
            self._probe.beat("corrections", within_s=self._settings.period_s + _SLACK_S)
            if self._stopping.wait(self._settings.period_s):
                break
            self._probe.beat("corrections", within_s=self._settings.limit_s + _END_S + _SLACK_S)
            self._correct()

    def stop(self) -> None:
        self._stopping.set()
        running = self._pass
        if running is not None:
            running.terminate()

    def _correct(self) -> None:
        outcome, said = "failed", b""
        with subprocess.Popen(self._command, stdout=subprocess.PIPE) as running:
            self._pass = running
            if self._stopping.is_set():
                running.terminate()
            try:
                said, _ = running.communicate(timeout=self._settings.limit_s)
                outcome = "done" if running.returncode == 0 else "failed"
            except subprocess.TimeoutExpired:
                outcome = "too_long"
                _ended(running)
            finally:
                self._pass = None
        if self._stopping.is_set() and outcome != "done":
            return
        PASSES.labels(self._pipeline, outcome).inc()
        if outcome == "done":
            self._note(json.loads(said))
            self._failed = None
        else:
            self._failed = f"the last pass ended with {running.returncode} ({outcome})"
            _LOG.warning(
                "a pass failed; the next one will do it", pipeline=self._pipeline, reason=self._failed
            )

    def _note(self, found: dict[str, Any]) -> None:
        SENT.labels(self._pipeline).inc(found["sent"])
        WAITING.labels(self._pipeline).set(found["waiting"])
        SECONDS.labels(self._pipeline).set(found["seconds"])
        if found["changed"]:
            _LOG.info("corrected", pipeline=self._pipeline, **found)

    def _last_pass(self) -> None:
        if self._failed is not None:
            raise Unavailable(self._failed, mend="see its log, or run `millstream features correct`")


def run(pipeline: str, command: Sequence[str], settings: Corrections) -> None:
    """The process: serve the probe, correct each period until SIGTERM or SIGINT."""
    probe = Probe()
    corrector = Corrector(pipeline, command, settings, probe)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: corrector.stop())
    server = ProbeServer(probe).start()
    try:
        corrector.run()
    finally:
        probe.close()
        server.stop()


def _ended(running: "subprocess.Popen[bytes]") -> None:
    running.terminate()
    try:
        running.wait(_END_S)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()
