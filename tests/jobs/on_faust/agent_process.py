"""An agent of the test's view, for tests that kill it: `python -m ... DOMAIN QUIET_MS`."""

import sys

from core.settings import settings
from jobs.on_faust.main import run
from tests.jobs.on_faust.trips import job

if __name__ == "__main__":
    run(job(sys.argv[1]), settings(), quiet_ms=int(sys.argv[2]))
