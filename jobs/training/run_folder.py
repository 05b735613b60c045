"""A run on disk: its state, and what its stages leave for the next ones.

    <root>/runs/<id>/state.json     how it stands; replaced at once, never half written
    <root>/runs/<id>/data/          rows, matrix, study, model: needed to go on, removed when the run ended
    <root>/runs/<id>/*.json, *.txt  reports, kept

One process at a time works on a run: it holds the run's lock, which ends with the process.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
from filelock import FileLock, Timeout

from core.errors import Conflict, InvalidInput, UnknownName
from core.structs import ready
from models.store import Registry
from pipelines.training.configuration import Configuration

Outcome = Literal["queued", "running", "succeeded", "needs_attention", "failed"]
ENDED: tuple[Outcome, ...] = ("succeeded", "needs_attention", "failed")
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_STATE = "state.json"
_GONE = ".gone-"


class StageState(msgspec.Struct, frozen=True):
    """A stage that is done, how long it took, and what it says."""

    name: str
    seconds: float
    skipped: bool = False
    details: dict[str, Any] = {}


class Acknowledgement(msgspec.Struct, frozen=True):
    """Who has seen how a run ended, and when."""

    by: str
    at: datetime


@ready
class RunState(msgspec.Struct, frozen=True):
    """Everything about a run that another process must know to go on with it."""

    id: str
    tenant: str
    asked_by: str
    configuration: Configuration
    promote: bool
    created_at: datetime
    changed_at: datetime
    state: Outcome = "queued"
    stage: str = ""
    stages: int = 0
    done: tuple[StageState, ...] = ()
    trials_done: int = 0
    metrics: dict[str, float] = {}
    version: str | None = None
    problem: str | None = None
    attempts: int = 0
    told: dict[str, str] = {}
    acknowledged: Acknowledgement | None = None

    def details(self, stage: str) -> dict[str, Any]:
        """What a stage that is done said."""
        for one in self.done:
            if one.name == stage:
                return one.details
        raise InvalidInput(f"stage {stage} is not done", where=f"run {self.id}", mend="resume the run")


class RunFolder:
    """The folder of one run."""

    def __init__(self, root: Path, id: str) -> None:
        if not _ID.fullmatch(id):
            raise InvalidInput(f"run id {id[:80]!r}", mend="use up to 128 of letters, digits, _, . and -")
        self.id = id
        self.path = root / "runs" / id
        self.data = self.path / "data"

    @property
    def exists(self) -> bool:
        return (self.path / _STATE).is_file()

    def create(self, state: RunState) -> RunState:
        """Begin the run; one that is there stays as it is. Returns what is there then."""
        if not self.exists:
            self.data.mkdir(parents=True, exist_ok=True)
            self.save(state)
        return self.load()

    def load(self) -> RunState:
        """Raises UnknownName when there is no such run, InvalidInput when its state cannot be read."""
        try:
            return msgspec.json.decode((self.path / _STATE).read_bytes(), type=RunState)
        except FileNotFoundError:
            known = [folder.id for folder in runs(self.path.parent.parent)]
            raise UnknownName("training run", self.id, known) from None
        except msgspec.DecodeError as error:
            raise InvalidInput(
                f"the state cannot be read: {error}", where=str(self.path / _STATE), mend="begin a new run"
            ) from error

    def save(self, state: RunState) -> None:
        """On disk when it returns."""
        self.write(_STATE, msgspec.json.format(msgspec.json.encode(state), indent=1))

    def write(self, name: str, data: bytes) -> Path:
        """A file of the run, complete or not at all. `name` may begin with `data/`."""
        target = self.path / name
        descriptor, temporary = tempfile.mkstemp(prefix=".write-", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        return target

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work on the run alone. Raises Conflict when another process does."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Conflict(
                f"another process works on run {self.id}", where=str(self.path), mend="wait for it"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def busy(self) -> bool:
        """Whether a process works on the run now."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def remove(self) -> bool:
        """Whether it is gone at once, as a whole; not while a process works on it."""
        try:
            with self.held():
                gone = self.path.with_name(f"{_GONE}{self.id}")
                self.path.rename(gone)
        except Conflict:
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def clear(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.data, ignore_errors=True)


def runs(root: Path) -> list[RunFolder]:
    """Every run under `root`, oldest name first."""
    folder = root / "runs"
    if not folder.is_dir():
        return []
    names = sorted(path.name for path in folder.iterdir() if _ID.fullmatch(path.name))
    return [found for name in names if (found := RunFolder(root, name)).exists]


def prune(root: Path, store: Registry, *, runs_kept: int, days_kept: float, now: datetime) -> list[str]:
    """Remove the folders of old runs; returns their ids.

    Kept are of each model the newest `runs_kept`, all that changed within `days_kept`, those that have not
    ended or are worked on, and those whose version has an alias. Raises Unavailable, with nothing removed
    of a model whose aliases the registry does not tell.
    """
    for gone in (root / "runs").glob(f"{_GONE}*"):  # of one that was killed
        shutil.rmtree(gone, ignore_errors=True)
    by_model: dict[str, list[tuple[datetime, RunFolder, RunState]]] = {}
    for folder in runs(root):
        try:
            state = folder.load()
        except InvalidInput:  # not readable: for somebody to look at
            continue
        by_model.setdefault(state.configuration.name, []).append((state.created_at, folder, state))
    removed = []
    for model, found in by_model.items():
        found.sort(key=lambda one: (one[0], one[1].id), reverse=True)
        oldest = now - timedelta(days=days_kept)
        old = [one for one in found[runs_kept:] if one[2].state in ENDED and one[2].changed_at < oldest]
        needed = set(store.aliases(model).values()) if old else set()
        removed += [folder.id for _, folder, state in old if state.version not in needed and folder.remove()]
    return removed


def acknowledge(folder: RunFolder, *, by: str, at: datetime) -> RunState:
    """Note that somebody has seen how the run ended; the first one stays. Raises Conflict while it runs."""
    state = folder.load()
    if state.state not in ENDED:
        raise Conflict(f"run {state.id} has not ended", mend="acknowledge it then", code="not_ended")
    if state.acknowledged is None:
        state = msgspec.structs.replace(state, acknowledged=Acknowledgement(by, at), changed_at=at)
        folder.save(state)
    return state


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as they are kept: rounded to 6 digits after the point."""
    return {name: round(float(value), 6) for name, value in metrics.items()}
