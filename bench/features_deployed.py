"""The pipelines `fraud` and `demand` as they are deployed, without a model: what freshness is measured on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from core.errors import MillstreamError
from core.settings import Settings, settings
from gateway.client import GatewayClient
from gateway.keys import create_key
from pipelines.changes import apply
from pipelines.load import load_plans
from stack.local import Stack
from stack.service import Progress, Silent
from stack.unit import JobSpec

PIPELINES = ("fraud", "demand")
READY_S = 180.0
_CONNECTIONS = 256


@dataclass(frozen=True)
class Deployed:
    """The gateway, the streams and the writers of both pipelines, ready."""

    settings: Settings

    @property
    def url(self) -> str:
        return f"http://{self.settings.gateway.host}:{self.settings.gateway.port}"

    def key(self, tenant: str) -> str:
        return create_key(self.settings, tenant, name="bench")

    def client(self, tenant: str) -> GatewayClient:
        return GatewayClient(self.url, self.key(tenant), connections=_CONNECTIONS)


class ToldOnErrors(Silent):
    """Each step as a line on standard error, at once: what takes minutes says how far it is."""

    def step(self, subject: str, text: str) -> None:
        print(f"{datetime.now():%H:%M:%S} {subject}: {text}", file=sys.stderr, flush=True)


@contextmanager
def deployed(told: Progress) -> Iterator[Deployed]:
    """On the local stack, which is started where it does not run, and then stopped again. Jobs that were
    there before stay."""
    given = settings()
    stack = Stack(given)
    ran = stack.running()
    kept = {unit.name for unit in stack.folder.read_jobs()}
    specs = _jobs(given)
    stack.up(resume_jobs=False, progress=told)
    try:
        # all of them: the gateway takes events of every pipeline, and is ready when it can
        told.step("pipelines", "applying")
        apply(list(load_plans().values()), given)
        for spec in specs:
            stack.add_job(spec)
        stack.wait_ready([spec.name for spec in specs], READY_S, told)
        yield Deployed(given)
    finally:
        for spec in specs:
            if spec.name not in kept:
                with suppress(MillstreamError):
                    stack.remove_job(spec.name)
        if not ran:
            stack.down(progress=told)


def _jobs(given: Settings) -> list[JobSpec]:
    """As `millstream apply` makes them, but no worker."""
    command = (sys.executable, "-P", "-m", "cli", "run")
    gateway = JobSpec(name="gateway", argv=(*command, "gateway"), probe_port=given.gateway.port, stage=30)
    return [gateway] + [
        JobSpec(name=f"{pipeline}-{job}", argv=(*command, job, "--pipeline", pipeline), stage=20)
        for pipeline in PIPELINES
        for job in ("flink", "writer")
    ]
