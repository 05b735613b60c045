"""The local stack as one thing: bring it up, take it down, ask how it is, add jobs to it."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from core.errors import StackError, UnknownName
from core.settings import Settings, settings
from stack.catalog import services
from stack.control import Reply, Request, call
from stack.logs import tail
from stack.ports import refuse_clashes
from stack.process import Identity, end, kill_group, wait_gone
from stack.service import Cancellable, Progress, Service, Silent
from stack.state import RunFolder, UnitStatus
from stack.supervisor import end_left_over
from stack.unit import JobSpec, Kind, Unit, job_unit
from stack.watch import State

READY_TIMEOUT_S = 120.0
SUPERVISOR_TIMEOUT_S = 30.0
POLL_S = 0.05
DEFAULT_SUPERVISOR = (sys.executable, "-P", "-m", "stack.supervisor")
EXTERNAL = "external"


class Stack:
    """The services and jobs of one data folder (`settings().root`), run by one supervisor daemon.

    `supervisor`: the command that runs the daemon; the composition root passes one that also publishes
    alerts. Every method may be called from any process of the same user.
    """

    def __init__(self, given: Settings | None = None, supervisor: Sequence[str] = DEFAULT_SUPERVISOR) -> None:
        self.settings = given or settings()
        self.folder = RunFolder(self.settings.root)
        self._command = tuple(supervisor)

    # -- up and down ------------------------------------------------------------------------------

    def up(
        self,
        only: set[str] | None = None,
        progress: Progress | None = None,
        *,
        resume_jobs: bool = True,
        timeout_s: float = READY_TIMEOUT_S,
    ) -> None:
        """Fetch, start and wait until every service (or those in `only`) is ready.

        What runs already is left alone; external services are only reached. Jobs that were added with
        `resume` start again unless `resume_jobs` is false; their readiness is not waited for. If anything
        goes wrong, or on Ctrl-C, what this call started is stopped again.
        """
        told = Cancellable(progress or Silent())
        chosen = services(self.settings, only)
        local = [service for service in chosen if service.external is None]
        self._reach_external([service for service in chosen if service.external is not None], told)
        self._each(local, lambda service: service.fetch(told), told)
        running = self._running()
        ours = frozenset(unit.pid for unit in running.values() if unit.pid is not None)
        started: list[str] = []
        daemon = False
        try:
            if not self._alive():
                daemon = True
                self._start_supervisor(told)
                ours = frozenset()
                running = {}
            self._check_ports(local, running, ours)
            self._start(local, running, started, told)
            self.wait_ready([service.name for service in local], timeout_s, told)
            if resume_jobs:
                self._resume(running)
        except BaseException:
            told.cancel()
            told.step("stack", "stopping what was started")
            if daemon:
                self._shut_down()
            elif started:
                self._call(Request(do="stop", names=tuple(started)))
            raise

    def down(self, *, wipe: bool = False, progress: Progress | None = None) -> None:
        """Stop everything, jobs first, also when the supervisor was killed. Data stays unless `wipe`."""
        told = progress or Silent()
        if self._alive():
            told.step("stack", "stopping")
            self._shut_down()
        else:
            end_left_over(self.folder, self.settings.supervisor.stop_timeout_s)
            self.folder.state_file.unlink(missing_ok=True)
        if wipe and self.settings.root.exists():
            told.step("stack", f"deleting {self.settings.root}")
            shutil.rmtree(self.settings.root)

    def running(self) -> bool:
        """Whether a supervisor runs for this folder."""
        return self._alive()

    # -- status -----------------------------------------------------------------------------------

    def status(self) -> list[UnitStatus]:
        """Every unit in start order, then the external services. Empty when nothing was started."""
        rows = list(self._call(Request(do="ping")).units) if self._alive() else self._left_over()
        for service in services(self.settings):
            if service.external is not None:
                rows.append(
                    UnitStatus(
                        name=service.name,
                        service=service.name,
                        kind=Kind.SERVICE,
                        state=EXTERNAL,
                        address=service.address,
                    )
                )
        return rows

    def unit(self, name: str) -> UnitStatus:
        """One unit by its name. Raises `UnknownName`."""
        rows = {row.name: row for row in self.status()}
        if name not in rows:
            raise UnknownName("unit", name, rows)
        return rows[name]

    def wait_ready(
        self,
        names: Iterable[str] | None = None,
        timeout: float = READY_TIMEOUT_S,
        progress: Progress | None = None,
    ) -> None:
        """Until the units (or services) of these names, or all, are ready.

        Raises `StackError` after `timeout` seconds, or when one of them was restarted meanwhile more often
        than the supervisor tolerates, with the end of its log.
        """
        told = progress or Silent()
        begin, seen, wanted = time.monotonic(), set[str](), None if names is None else set(names)
        before: dict[str, int] = {}  # restarts of earlier days are no failure of today
        while True:
            rows = [row for row in self.status() if row.state != EXTERNAL]
            chosen = [row for row in rows if wanted is None or {row.name, row.service} & wanted]
            missing = (wanted or set()) - {name for row in rows for name in (row.name, row.service)}
            missing -= {service.name for service in services(self.settings) if service.external is not None}
            if missing:
                raise UnknownName("unit", sorted(missing)[0], [row.name for row in rows])
            for row in chosen:
                if row.state == State.READY and row.name not in seen:
                    seen.add(row.name)
                    told.step(row.name, f"ready after {time.monotonic() - begin:.1f} s")
            late = [row for row in chosen if row.state != State.READY]
            if not late:
                return
            tolerated = self.settings.supervisor.alert_restarts
            failing = [
                row for row in late if row.restarts - before.setdefault(row.name, row.restarts) > tolerated
            ]
            if failing or time.monotonic() - begin > timeout:
                raise self._not_ready((failing or late)[0], time.monotonic() - begin)
            time.sleep(POLL_S)

    # -- jobs -------------------------------------------------------------------------------------

    def add_job(self, spec: JobSpec) -> None:
        """Start a job, or replace the one of that name when the specification differs."""
        units = self._call(Request(do="ping")).units
        present = tuple(dict.fromkeys(unit.service for unit in units if unit.kind is Kind.SERVICE))
        env = {name: value for name, value in os.environ.items() if name.startswith("MILLSTREAM_")}
        env |= self._base_env()
        for told_by_supervisor in ("MILLSTREAM_PROBE_PORT", "MILLSTREAM_RESTARTS"):
            env.pop(told_by_supervisor, None)
        unit = job_unit(spec, root=self.settings.root, services=present, env=env)
        self._call(Request(do="put", units=(unit,)))

    def remove_job(self, name: str, timeout: float = 60.0) -> None:
        """Stop the job and forget it. Returns when its process is gone."""
        if not self._alive():
            kept = [unit for unit in self.folder.read_jobs() if unit.name != name]
            if self.folder.folder.exists():
                self.folder.write_jobs(kept)
            return
        self._call(Request(do="remove", names=(name,)))
        self._wait(lambda: all(row.name != name for row in self.status()), timeout, f"{name} does not stop")

    def stop(self, name: str, timeout: float = 60.0) -> None:
        """Stop a unit or service until it is started again. Returns when its processes are gone."""
        self._call(Request(do="stop", names=(name,)))
        self._wait(lambda: all(row.pid is None for row in self._rows(name)), timeout, f"{name} does not stop")

    def start(self, name: str) -> None:
        """Start a stopped unit or service."""
        self._call(Request(do="start", names=(name,)))

    def restart(self, name: str, reason: str = "asked for") -> None:
        """Stop gracefully and start again. Does not wait; `wait_ready` does."""
        self._call(Request(do="restart", names=(name,), reason=reason))

    def logs(self, name: str) -> tuple[Path, ...]:
        """Log files of a unit, a service, or `supervisor`; they need not run."""
        if name == "supervisor":
            return (self.folder.log_file,)
        known: dict[str, list[Path]] = {}
        folder = self.settings.root / "logs"
        for row in self._status_or_nothing():
            if row.log:
                known.setdefault(row.service, []).append(Path(row.log))
                known.setdefault(row.name, [Path(row.log)])
        for log in sorted(folder.glob("*.log")):
            known.setdefault(log.stem, [log])
            known.setdefault(log.stem.partition("-")[0], []).append(log)
        if name not in known:
            raise UnknownName("log", name, known)
        return tuple(dict.fromkeys(known[name]))

    # -- inside -----------------------------------------------------------------------------------

    def _alive(self) -> bool:
        try:
            call(self.settings.root, Request(do="ping"))
        except (OSError, StackError):
            return False
        return True

    def _call(self, request: Request) -> Reply:
        try:
            return call(self.settings.root, request)
        except OSError as error:
            raise StackError(
                "the stack is not running", where=str(self.settings.root), mend="run `millstream up`"
            ) from error

    def _rows(self, name: str) -> list[UnitStatus]:
        return [row for row in self.status() if name in (row.name, row.service)]

    def _status_or_nothing(self) -> list[UnitStatus]:
        with contextlib.suppress(StackError):
            return self.status()
        return []

    def _running(self) -> dict[str, UnitStatus]:
        if not self._alive():
            return {}
        return {row.name: row for row in self._call(Request(do="ping")).units}

    def _left_over(self) -> list[UnitStatus]:
        """What a killed supervisor left: rows whose process still lives."""
        state = self.folder.read_state()
        if state is None:
            return []
        return [row for row in state.units if row.identity is not None and row.identity.process() is not None]

    def _reach_external(self, chosen: list[Service], told: Progress) -> None:
        for service in chosen:
            answer = service.ready()
            if not answer.ok:
                raise StackError(
                    f"the external {service.name} cannot be reached: {answer.reason}",
                    where=service.address,
                    mend="start it, or remove the setting to use the local one",
                )
            told.step(service.name, f"external, reached at {service.address}")

    def _each(self, chosen: list[Service], work: Callable[[Service], None], told: Cancellable) -> None:
        """All at once. The first failure, or Ctrl-C, calls off the others and does not wait for them."""
        pool = ThreadPoolExecutor(max(len(chosen), 1))
        try:
            for future in as_completed([pool.submit(work, service) for service in chosen]):
                future.result()
        except BaseException:
            told.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()

    def _check_ports(
        self, local: list[Service], running: dict[str, UnitStatus], ours: frozenset[int]
    ) -> None:
        live = {row.service for row in running.values() if row.pid is not None}
        refuse_clashes((port for s in local if s.name not in live for port in s.ports()), ours)

    def _start(
        self, local: list[Service], running: dict[str, UnitStatus], started: list[str], told: Cancellable
    ) -> None:
        """Each service starts as soon as it is prepared; Kafka, first in the list, is the longest way."""

        def begin(service: Service) -> None:
            service.prepare()
            units = service.units()
            if told.cancelled:
                return
            started.extend(unit.name for unit in units if unit.name not in running)
            self._call(Request(do="put", units=units))
            told.step(service.name, f"starting {service.version()}")

        self._each(local, begin, told)

    def _resume(self, running: dict[str, UnitStatus]) -> None:
        jobs: list[Unit] = [unit for unit in self.folder.read_jobs() if unit.name not in running]
        if jobs:
            self._call(Request(do="put", units=tuple(jobs)))

    def _base_env(self) -> dict[str, str]:
        given = self.settings.supervisor.model_dump()
        env = {f"MILLSTREAM_SUPERVISOR__{name.upper()}": str(value) for name, value in given.items()}
        return env | {
            "MILLSTREAM_HOME": str(self.settings.root),
            "MILLSTREAM_CACHE": str(self.settings.cache),
        }

    def _start_supervisor(self, told: Progress) -> None:
        self.folder.create()
        source = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(part for part in (source, os.environ.get("PYTHONPATH", "")) if part)
        with self.folder.log_file.open("ab") as log:
            process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._base_env(), "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + SUPERVISOR_TIMEOUT_S + self.settings.supervisor.stop_timeout_s
        while not self._alive():
            if process.poll() is not None or time.monotonic() > deadline:
                kill_group(process.pid)
                raise StackError(
                    f"the supervisor does not start: {tail(self.folder.log_file)}",
                    where=str(self.folder.log_file),
                    mend="read that file",
                )
            time.sleep(POLL_S)
        told.step("supervisor", f"started, pid {process.pid}")

    def _shut_down(self) -> None:
        state = self.folder.read_state()
        with contextlib.suppress(StackError, OSError):
            call(self.settings.root, Request(do="shutdown"))
        timeout_s = 4 * self.settings.supervisor.stop_timeout_s + 10
        if state is None:
            return
        supervisor: Identity = state.supervisor
        if not wait_gone(supervisor, timeout_s):
            end([(supervisor, 9)], 5)
            end_left_over(self.folder, self.settings.supervisor.stop_timeout_s)

    def _wait(self, done: Callable[[], bool], timeout: float, otherwise: str) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                raise StackError(
                    otherwise, where=str(self.settings.root), mend="see `millstream logs supervisor`"
                )
            time.sleep(POLL_S)

    def _not_ready(self, row: UnitStatus, after_s: float) -> StackError:
        last = row.reasons[-1].text if row.reasons else "no answer yet"
        log = Path(row.log) if row.log else self.folder.log_file
        return StackError(
            f"{row.name} is not ready after {after_s:.0f} s (state {row.state}, {last})\n{tail(log)}",
            where=str(log),
            mend="read that log; `millstream doctor` looks for the usual causes",
            code="not_ready",
        )
