"""Shadows: versions that score what the live one scores, in a thread of their own, for their figures alone.

The loop hands over a batch and never waits: where the thread is behind, a batch is left out and counted.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence

from core.errors import ModelError
from core.telemetry.log import logger
from jobs.worker.held import Held, points
from operators.infer import Inferred
from operators.ports import Scorer

_LOG = logger("worker.shadows")
WAITING = 4
Call = Callable[[Scorer], Inferred]
"""Scores the rows with a version."""


class Shadows:
    """One thread, started with the first batch that is offered."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[tuple[int, Call, Sequence[Held]]] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def offer(self, rows: int, call: Call, shadows: Sequence[Held]) -> None:
        """Score `rows` rows with them, some time, or not at all."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((rows, call, shadows))
        except queue.Full:
            for held in shadows:
                held.meter.skipped += rows

    def _run(self) -> None:
        while True:
            rows, call, shadows = self._waiting.get()
            for held in shadows:
                try:
                    self._score(call, held)
                except Exception as error:
                    held.meter.failed(rows)
                    if isinstance(error, ModelError):
                        held.state, held.reason = "failed", error.what
                    _LOG.warning("a shadow failed", version=held.version, error=f"{error}")

    def _score(self, call: Call, held: Held) -> None:
        with held.lock:
            if held.live or not held.usable or held.scorer is None:
                return
            began = time.perf_counter()
            inferred = call(held.scorer)
            took_ms = (time.perf_counter() - began) * 1000
        held.meter.add(points(inferred.outputs, held.scorer), len(inferred.failed), took_ms)
