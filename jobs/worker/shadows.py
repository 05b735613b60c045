"""Shadows: versions that score what the live one scores, in a thread of their own, for their figures alone.

The loop hands over a batch and never waits: where the thread is behind, a batch is left out and counted.
"""

import queue
import threading
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from core.errors import MillstreamError
from core.telemetry.log import logger
from jobs.worker.held import Held
from operators.infer import infer

_LOG = logger("worker.shadows")
WAITING = 4


class Shadows:
    """One thread, started with the first batch that is offered."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[tuple[pa.RecordBatch, Sequence[Held]]] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def offer(self, batch: pa.RecordBatch, shadows: Sequence[Held]) -> None:
        """Score `batch` with them, some time, or not at all."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((batch, shadows))
        except queue.Full:
            for held in shadows:
                held.meter.skipped += batch.num_rows

    def _run(self) -> None:
        while True:
            batch, shadows = self._waiting.get()
            for held in shadows:
                try:
                    self._score(batch, held)
                except Exception as error:
                    held.meter.errors += batch.num_rows
                    if isinstance(error, MillstreamError):
                        held.state, held.reason = "failed", error.what
                    _LOG.warning("a shadow failed", version=held.version, error=f"{error}")

    def _score(self, batch: pa.RecordBatch, held: Held) -> None:
        with held.lock:
            if held.live or not held.usable or held.scorer is None:
                return
            began = time.perf_counter()
            inferred = infer(batch, held.scorer)
            took_ms = (time.perf_counter() - began) * 1000
        held.meter.add(inferred.probabilities * np.float32(100), len(inferred.failed), took_ms)
