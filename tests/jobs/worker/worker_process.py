"""A worker process of the small pipeline, for tests that kill it: `python -m ... DOMAIN BATCH PAUSE_MS`.

The model is the formula; it pauses for PAUSE_MS per call, so that there is a middle to be killed in.
"""

import sys
import time

from core.settings import settings
from jobs.worker.main import run
from operators.ports import Matrix, Scorer
from tests.jobs.worker.payments import Formula, plan


class Slow(Formula):
    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.pause_s = pause_s

    def score(self, matrix: Matrix) -> Matrix:
        time.sleep(self.pause_s)
        return super().score(matrix)


class Source:
    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s

    def champion(self) -> str:
        return "1"

    def load(self, version: str) -> Scorer:
        del version
        return Slow(self.pause_s)


if __name__ == "__main__":
    domain, batch, pause_ms = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    run(plan(domain, batch=batch), settings(), source=Source(pause_ms / 1000))
