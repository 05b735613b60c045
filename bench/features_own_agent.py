"""Our own Faust agent in the feature engines' benchmark: `python -m bench.features_own_agent DOMAIN`."""

import sys

from bench.features_events import topics
from core.settings import settings
from jobs.on_faust.job import FaustJob
from jobs.on_faust.main import run

if __name__ == "__main__":
    run(FaustJob(**topics(sys.argv[1])), settings(), quiet_ms=3_600_000)
