"""Backfill on a Flink cluster: the stream's SQL in batch mode, over a recorded range, to the features topic.

The rows have sequence 0, as the stream's; the writer's sinks take them from the topic to the stores. A job
that fails, or is run again, sends rows again with equal ids and values: readers take one row per id.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from core.errors import StackError, Unavailable
from core.settings import Settings
from features.compile.flink_batch import WindowedBatch
from jobs.on_flink.java_parts import JavaParts
from jobs.on_flink.rest import FlinkRest
from jobs.on_flink.restore_points import RestorePoint
from jobs.on_flink.submit import FlinkJob

_POLL_S = 0.5
_ATTEMPTS = {  # the cluster's own strategy is to try for ever, which is right for a stream
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": "5",
    "restart-strategy.fixed-delay.delay": "5 s",
}
# A blocking exchange wants 64 MB of direct memory, which a small TaskManager has not.
_PIPELINED = {"execution.batch-shuffle-mode": "ALL_EXCHANGES_PIPELINED", "jobmanager.scheduler": "Default"}
_OF_STREAMS = ("execution.checkpointing.", "state.backend.", "pipeline.auto-watermark-interval")


@dataclass(frozen=True)
class FlinkBatch(FlinkJob):
    """A job that ends: it keeps no state to bound, and has nothing to resume from."""

    @property
    def mode(self) -> dict[str, str]:
        return {"execution.runtime-mode": "BATCH"}

    def bounded(self, plan: dict[str, Any]) -> dict[str, Any]:
        return plan

    def configuration(self, restore_from: RestorePoint | None) -> dict[str, str]:
        conf = super().configuration(restore_from)
        return (
            {key: value for key, value in conf.items() if not key.startswith(_OF_STREAMS)}
            | self.mode
            | _PIPELINED
            | _ATTEMPTS
        )


def backfill_on_flink(
    batch: WindowedBatch, settings: Settings, java: JavaParts, *, timeout: timedelta = timedelta(hours=6)
) -> None:
    """Run the job, and return when all of its rows are on the features topic.

    Raises Refused where Flink does not take it, StackError where it fails or is cancelled, Unavailable where
    it has not ended in time; then it is cancelled.
    """
    job = FlinkBatch(batch, settings, java)
    id = job.submit(None)
    rest = FlinkRest(settings.flink.address)
    deadline = time.monotonic() + timeout.total_seconds()
    try:
        while True:
            state = next((one.state for one in rest.jobs() if one.id == id), "UNKNOWN")
            if state == "FINISHED":
                return
            if state in ("FAILED", "CANCELED"):
                raise StackError(
                    f"the backfill has {state.lower()}",
                    where=f"job {job.name}: {_causes(rest.root_cause(id))}",
                    mend="look at the JobManager's log, and run it again",
                )
            if time.monotonic() > deadline:
                rest.cancel(id, timeout_s=30)
                raise Unavailable(f"the backfill has not ended within {timeout}", where=f"job {job.name}")
            time.sleep(_POLL_S)
    finally:
        rest.close()


def _causes(trace: str) -> str:
    """The first line and what it was caused by, without the stack in between."""
    lines = trace.splitlines()
    return " | ".join([*lines[:1], *(line for line in lines if line.startswith("Caused by"))])[:1000]
