"""Trainings that were asked for and those that come due: put on disk, run one after the other, told.

Everything that must survive is in the runs' folders and in `schedule.json`. A command that is taken twice is
one run; a time that came due twice, too, for its run is named after it. A time that passed while nothing ran
is made up for, once.
"""

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec

from core.clock import Clock
from core.errors import MillstreamError, UnknownName
from core.telemetry.log import logger
from jobs.training.beginning import Asked, begin, ended
from jobs.training.run_folder import RunFolder, RunState, acknowledge, runs
from pipelines.training.configuration import Configuration
from pipelines.training.cron import Cron
from schemas.catalog.training import TrainingCommand

SCHEDULE = "schedule.json"
ATTEMPTS = 5
"""How often a run is begun whose process ends without a word, e.g. killed for its memory."""
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=1)
_log = logger("training.scheduler")


class Child(Protocol):
    """A process that works on a run."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to stop; the run can be resumed."""
        ...

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        ...


class Scheduler:
    """`start` begins a process for a run id; `publish` tells how a run stands and may raise Unavailable.

    One thread. `most` runs at the same time. The runs of another scheduler's processes are left alone until
    they are over.
    """

    def __init__(
        self,
        root: Path,
        configurations: Mapping[str, Configuration],
        *,
        start: Callable[[str], Child],
        publish: Callable[[RunState], None],
        clock: Clock,
        most: int,
    ) -> None:
        self._root, self._configurations = root, configurations
        self._start, self._publish, self._clock, self._most = start, publish, clock, most
        self._children: dict[str, Child] = {}
        self._pauses: dict[str, tuple[timedelta, datetime]] = {}
        self._published: dict[str, RunState] = {}
        self._open = {folder.id for folder in runs(root)}
        root.mkdir(parents=True, exist_ok=True)

    def take(self, command: TrainingCommand) -> None:
        """On disk when it returns. Raises InvalidInput for a command that cannot be carried out."""
        folder = RunFolder(self._root, command.id)
        if command.kind == "acknowledge":
            acknowledge(folder, by=command.asked_by, at=self._clock.now())
        else:
            configuration = msgspec.json.decode(command.configuration, type=Configuration)
            asked = Asked(tenant=command.tenant, by=command.asked_by)
            begin(configuration, folder, asked, self._clock)
        self._open.add(folder.id)

    def step(self) -> None:
        """Everything that is due now: new times, ended processes, free places, changed states."""
        self._come_due()
        self._reap()
        self._fill()
        self._tell()

    def stop(self) -> None:
        """Ask every process to stop; their runs are resumed by the next scheduler."""
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            child.wait()

    def _come_due(self) -> None:
        path, now = self._root / SCHEDULE, self._clock.now()
        known: dict[str, datetime] = {}
        if path.is_file():
            known = msgspec.json.decode(path.read_bytes(), type=dict[str, datetime])
        before = dict(known)
        for name, configuration in self._configurations.items():
            if configuration.schedule is None:
                continue
            cron = Cron.parse(configuration.schedule)
            last = known.setdefault(name, now)
            due = cron.after(last)
            if due > now:
                continue
            while (later := cron.after(due)) <= now:
                due = later
            folder = RunFolder(self._root, f"{name}-{due:%Y%m%dT%H%MZ}")
            begin(configuration, folder, Asked(by="schedule"), self._clock)
            self._open.add(folder.id)
            known[name] = due
            _log.info("a training comes due", model=name, run=folder.id)
        if known != before:
            partial = path.with_suffix(".partial")
            partial.write_bytes(msgspec.json.encode(known))
            os.replace(partial, path)

    def _reap(self) -> None:
        for id, child in list(self._children.items()):
            code = child.poll()
            if code is None:
                continue
            del self._children[id]
            folder = RunFolder(self._root, id)
            state = folder.load()
            if ended(state):
                continue
            pause, _ = self._pauses.get(id, (_FIRST_PAUSE, None))
            self._pauses[id] = min(2 * pause, _LONGEST_PAUSE), self._clock.now() + pause
            _log.warning("a run's process ended before the run", run=id, code=code, attempts=state.attempts)
            if state.attempts >= ATTEMPTS:
                problem = f"its process ended {state.attempts} times, last with code {code}"
                now = self._clock.now()
                folder.save(msgspec.structs.replace(state, state="failed", problem=problem, changed_at=now))

    def _fill(self) -> None:
        """Start what waits, oldest first, but for a run that another process holds and one whose process has
        just ended without a word."""
        waiting, now = [], self._clock.now()
        for id in self._open - self._children.keys():
            if id in self._pauses and now < self._pauses[id][1]:
                continue
            folder = RunFolder(self._root, id)
            try:
                state = folder.load()
            except UnknownName:  # an old one that was pruned
                self._open.discard(id)
                continue
            if not ended(state) and not folder.busy():
                waiting.append((state.created_at, id))
        for _, id in sorted(waiting)[: max(self._most - len(self._children), 0)]:
            self._children[id] = self._start(id)

    def _tell(self) -> None:
        """Publish what changed; what cannot be published now is tried again at the next step."""
        for id in sorted(self._open):
            try:
                state = RunFolder(self._root, id).load()
            except UnknownName:  # pruned a moment ago
                continue
            if self._published.get(id) != state:
                try:
                    self._publish(state)
                except MillstreamError as error:
                    _log.warning("a state is not published", run=id, reason=error.what)
                    return
                self._published[id] = state
            if ended(state) and id not in self._children:
                self._open.discard(id)
                self._pauses.pop(id, None)
                del self._published[id]
