"""A training in a process of its own, to be killed: `python -m tests.jobs.training.killed ROOT`."""

import sys
from pathlib import Path

from tests.jobs.training.small import SEARCHED, rows, train

if __name__ == "__main__":
    train(SEARCHED, Path(sys.argv[1]), table=rows())
