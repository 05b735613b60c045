"""What the supervisor writes down in `<root>/run/`: the state of every unit, the jobs to resume, alerts.

Each file is replaced atomically, so that a reader never sees half of one. `state.json` names every process
by pid and start time; `down` works from it when the supervisor itself is gone.
"""

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from core.errors import StackError
from core.structs import ready
from stack.process import Identity
from stack.unit import Kind, Unit

KEPT_ALERTS = 1000


class Note(msgspec.Struct, frozen=True):
    at: datetime
    text: str


class UnitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `status`. `since`: start of the present process. `rss_mb`: MiB, descendants included."""

    name: str
    service: str
    kind: Kind
    state: str
    pid: int | None = None
    started: float | None = None
    since: datetime | None = None
    restarts: int = 0
    reasons: tuple[Note, ...] = ()
    rss_mb: float = 0.0
    address: str | None = None
    probe_port: int | None = None
    log: str | None = None
    stage: int = 0
    stop_signal: int = 15

    @property
    def identity(self) -> Identity | None:
        if self.pid is None or self.started is None:
            return None
        return Identity(self.pid, self.started)


@ready
class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """All units in start order, and the supervisor that wrote this."""

    supervisor: Identity
    at: datetime
    units: tuple[UnitStatus, ...] = ()


@ready
class StackAlert(msgspec.Struct, frozen=True, kw_only=True):
    """Raised by the supervisor. The composition root turns it into the system's alert record."""

    severity: str
    kind: str
    source: str
    subject: str
    text: str
    deduplication_key: str
    at: datetime


class RunFolder:
    """`<root>/run`: the supervisor's files. Readable by its owner only."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "run"
        self.state_file = self.folder / "state.json"
        self.jobs_file = self.folder / "jobs.json"
        self.alerts_file = self.folder / "alerts.jsonl"
        self.lock_file = self.folder / "supervisor.lock"
        self.log_file = root / "logs" / "supervisor.log"

    def create(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)

    def write_state(self, state: StackState) -> None:
        self._replace(self.state_file, state)

    def read_state(self) -> StackState | None:
        """The last state written; None where there is none."""
        try:
            return msgspec.json.decode(self.state_file.read_bytes(), type=StackState)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise StackError(
                "the state of the stack cannot be read",
                where=f"{self.state_file}: {error}",
                mend="look for left-over processes with `ps`, then delete the file",
            ) from error

    def write_jobs(self, units: Iterable[Unit]) -> None:
        self._replace(self.jobs_file, [unit for unit in units if unit.kind is Kind.JOB and unit.resume])

    def read_jobs(self) -> tuple[Unit, ...]:
        """The jobs that the next `up` starts again."""
        try:
            return tuple(msgspec.json.decode(self.jobs_file.read_bytes(), type=list[Unit]))
        except (FileNotFoundError, msgspec.MsgspecError):
            return ()

    def append_alert(self, alert: StackAlert) -> None:
        """Keep the alert on disk; the newest 1,000 stay."""
        lines = self.alerts_file.read_bytes().splitlines() if self.alerts_file.exists() else []
        lines.append(msgspec.json.encode(alert))
        self._write(self.alerts_file, b"\n".join(lines[-KEPT_ALERTS:]) + b"\n")

    def read_alerts(self) -> tuple[StackAlert, ...]:
        if not self.alerts_file.exists():
            return ()
        lines = self.alerts_file.read_bytes().splitlines()
        return tuple(msgspec.json.decode(line, type=StackAlert) for line in lines if line)

    def _replace(self, path: Path, content: Any) -> None:
        self._write(path, msgspec.json.format(msgspec.json.encode(content), indent=1))

    def _write(self, path: Path, content: bytes) -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(content)
        os.replace(fresh, path)
