"""A worker or a controller as a process: `python -m ... worker DOMAIN BATCH FOLDER | controller [FOLDER]`.

A controller without a folder has the registry of the settings.
"""

import sys
from dataclasses import replace
from pathlib import Path

from core.settings import settings
from jobs.rollout.main import run as control
from jobs.worker.main import run as work
from pipelines.plan import Infer
from tests.jobs.rollout.versions import VersionFolder
from tests.jobs.worker.payments import plan


def main(kind: str, *given: str) -> None:
    if kind == "controller":
        control(settings(), registry=VersionFolder(Path(given[0])) if given else None)
        return
    domain, batch, folder = given
    own = plan(domain, batch=int(batch))
    own = replace(own, infer=Infer(domain, batch=int(batch)))
    work(own, settings(), source=VersionFolder(Path(folder), domain))


if __name__ == "__main__":
    main(*sys.argv[1:])
