"""What the supervisor runs: units, as plain data that can be sent, stored and compared."""

import signal
from enum import StrEnum
from pathlib import Path

import msgspec

from core.structs import ready


class Kind(StrEnum):
    SERVICE = "service"
    JOB = "job"


class Probe(msgspec.Struct, frozen=True):
    """How a unit is asked for its health or readiness.

    kind `http`: GET `target`, 2xx is good; `own-https`: the same of a process of ours, whatever its
    certificate says; `tcp`: connect to `host:port`; `kafka`, `redis`, `postgres`:
    one round trip of that protocol to `host:port`; `taskmanager`: `target` is the JobManager's REST
    address, which must have heard from a TaskManager lately; `taskmanager-heartbeat`: the same, but good
    while the JobManager itself is away. `{port}` in `target` is the unit's probe port.
    """

    kind: str
    target: str


@ready
class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised process.

    `after`: names of units that must be ready before this one starts (unknown names do not count).
    `stage`: units stop from the highest stage to the lowest, all of one stage at once.
    `patience_s`: until it was ready once, health does not count for so long after a start (recovering a
    big log after a crash is no illness).
    `probe_port`: port of the probe endpoint of our own processes; 0 lets the supervisor choose one at each
    start; None for foreign services. `resume`: the next `up` brings the unit back (jobs only).
    """

    name: str
    service: str
    kind: Kind
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    log: str
    health: Probe
    ready: Probe
    after: tuple[str, ...] = ()
    stage: int = 0
    stop_signal: int = int(signal.SIGTERM)
    patience_s: float = 0.0
    probe_port: int | None = None
    address: str | None = None
    resume: bool = False


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A long-running process of ours, to be supervised.

    `probe_port`: where it serves `/health`, `/ready` and `/metrics`; it is told by
    `MILLSTREAM_PROBE_PORT`; 0 lets the supervisor choose. `tls`: by https, with a certificate that nobody
    checks. `resume`: `down` forgets the process but not the job, the next `up` starts it again. `after`:
    units or services that must be ready first; None means every service of the stack.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    probe_port: int = 0
    resume: bool = True
    after: tuple[str, ...] | None = None
    stage: int = 10
    cwd: str | None = None
    tls: bool = False


def job_unit(spec: JobSpec, *, root: Path, services: tuple[str, ...], env: dict[str, str]) -> Unit:
    """The unit of a job. `env` is the environment common to all jobs; the job's own wins."""
    base, probe = (
        ("https://127.0.0.1:{port}", "own-https") if spec.tls else ("http://127.0.0.1:{port}", "http")
    )
    return Unit(
        name=spec.name,
        service=spec.name,
        kind=Kind.JOB,
        argv=spec.argv,
        env={**env, **spec.env},
        cwd=spec.cwd or str(Path.cwd()),
        log=str(root / "logs" / f"{spec.name}.log"),
        health=Probe(probe, f"{base}/health"),
        ready=Probe(probe, f"{base}/ready"),
        after=services if spec.after is None else spec.after,
        stage=spec.stage,
        probe_port=spec.probe_port,
        resume=spec.resume,
    )
