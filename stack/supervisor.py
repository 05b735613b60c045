"""The supervisor: a daemon, parent of every service and job of one data folder.

One loop does all that changes anything; probes run in a small pool and only report; requests come in over
the control socket and are answered from the loop. Decisions are `stack.watch`'s. A second supervisor for
the same folder does not start (a file lock), and processes left by a killed one are ended first.
"""

import contextlib
import fcntl
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import msgspec

from core.clock import Clock, SystemClock
from core.errors import StackError, UnknownName
from core.settings import Settings, settings
from stack import control
from stack.control import Reply, Request
from stack.managed import Managed
from stack.probes import Answer, ask
from stack.process import Identity, end, resident_mb, trim_log
from stack.state import RunFolder, StackAlert, StackState
from stack.unit import Kind, Unit
from stack.watch import Question, Restart, State

log = logging.getLogger("stack.supervisor")

TICK_S = 0.05
CHORES_S = 10.0  # resident memory is measured, logs are trimmed
PROBE_THREADS = 12

RaiseAlert = Callable[[StackAlert], None]
Inbox = queue.Queue[tuple[Request, "queue.Queue[Reply]"]]


class Daemon:
    """The loop. `raise_alert` is called in a thread of its own; what it raises is logged and dropped,
    the alert stays in `alerts.jsonl`."""

    def __init__(self, given: Settings, clock: Clock, raise_alert: RaiseAlert | None = None) -> None:
        self.settings = given
        self.clock = clock
        self.run_folder = RunFolder(given.root)
        self.raise_alert = raise_alert
        self.managed: dict[str, Managed] = {}
        self.inbox: Inbox = queue.Queue(maxsize=64)
        self.answers: queue.SimpleQueue[tuple[Managed, int, Question, Answer]] = queue.SimpleQueue()
        self.probes = ThreadPoolExecutor(PROBE_THREADS, thread_name_prefix="probe")
        self.alerts = ThreadPoolExecutor(1, thread_name_prefix="alert")
        self.chores: Future[dict[str, float]] | None = None
        self.shutting_down = False
        self._chores_at = clock.monotonic() + 1.0
        self._changed = True
        self._me = Identity.of(os.getpid()) or Identity(os.getpid(), 0.0)

    def run(self) -> None:
        """Until a shutdown was asked for and the last unit ended."""
        while not (self.shutting_down and all(m.process is None for m in self.managed.values())):
            self._requests()
            self.tick()
        self.shutting_down = True
        self._write()
        self.probes.shutdown(wait=False, cancel_futures=True)
        self.alerts.shutdown(wait=True, cancel_futures=True)

    def tick(self) -> None:
        """One round over all units."""
        self._collect()
        for unit in list(self.managed.values()):
            ended, restart = unit.reap()
            self._changed |= ended
            self._follow(unit, restart)
            unit.insist()
            if unit.leaving and unit.process is None:
                del self.managed[unit.unit.name]
                self._changed = True
            elif not self.shutting_down and unit.may_start():
                self._start(unit)
            self._ask(unit)
        if self.shutting_down:
            self._stop_stage()
        self._do_chores()
        if self._changed:
            self._write()

    # -- units ------------------------------------------------------------------------------------

    def _start(self, unit: Managed) -> None:
        if any(
            other.state is not State.READY
            for other in self.managed.values()
            if other is not unit and {other.unit.name, other.unit.service} & set(unit.unit.after)
        ):
            self._changed |= unit.wait()
            return
        self._follow(unit, unit.start())
        self._write()  # at once: from here on `down` must find the process, whatever happens to us

    def _ask(self, unit: Managed) -> None:
        for question in unit.watch.due():
            if question in unit.in_flight:
                continue
            unit.in_flight.add(question)
            self.probes.submit(self._probe, unit, unit.generation, question)

    def _probe(self, unit: Managed, generation: int, question: Question) -> None:
        probe = unit.unit.health if question is Question.HEALTH else unit.unit.ready
        timeout_s = self.settings.supervisor.probe_timeout_s
        answer = ask(probe, port=unit.probe_port, timeout_s=timeout_s)
        self.answers.put((unit, generation, question, answer))

    def _collect(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                unit, generation, question, answer = self.answers.get_nowait()
                if generation != unit.generation:
                    continue  # about a process that is no more
                unit.in_flight.discard(question)
                before = unit.state
                restart = unit.watch.answered(question, answer)
                if restart is not None:
                    unit.restarted(restart)
                if unit.state is not before:
                    log.info("%s is %s %s", unit.unit.name, unit.state, answer.reason)
                    self._changed = True
                self._follow(unit, restart)

    def _follow(self, unit: Managed, restart: Restart | None) -> None:
        if restart is None:
            return
        self._changed = True
        if not restart.alert:
            return
        policy = self.settings.supervisor
        alert = StackAlert(
            severity="high",
            kind="restarts",
            source="supervisor",
            subject=unit.unit.name,
            text=f"{unit.unit.name} was restarted more than {policy.alert_restarts} times in "
            f"{policy.alert_window_s:g} s; last: {restart.reason}",
            deduplication_key=f"restarts:{unit.unit.name}",
            at=self.clock.now(),
        )
        log.error("alert: %s", alert.text)
        self.run_folder.append_alert(alert)
        if self.raise_alert is not None:
            self.alerts.submit(self._publish, alert, self.raise_alert)

    def _publish(self, alert: StackAlert, raise_alert: RaiseAlert) -> None:
        try:
            raise_alert(alert)
        except Exception:
            log.exception("the alert about %s could not be published", alert.subject)

    def _stop_stage(self) -> None:
        running = [unit for unit in self.managed.values() if unit.process is not None]
        highest = max((unit.unit.stage for unit in running), default=0)
        for unit in self.managed.values():
            if unit.process is None or unit.unit.stage == highest:
                before = unit.state
                unit.ask_stop()
                self._changed |= unit.state is not before

    # -- requests ---------------------------------------------------------------------------------

    def _requests(self) -> None:
        try:
            request, replies = self.inbox.get(timeout=TICK_S)
        except queue.Empty:
            return
        try:
            self._do(request)
            self._write()
            replies.put(Reply(units=tuple(unit.status() for unit in self.managed.values())))
        except (UnknownName, StackError, ValueError) as error:
            replies.put(Reply(error=str(error)))

    def _do(self, request: Request) -> None:
        if request.do == "ping":
            return
        if request.do == "shutdown":
            self.shutting_down = True
            return
        if self.shutting_down:
            raise StackError("the stack is stopping", mend="wait for `millstream down` to end")
        if request.do == "put":
            for unit in request.units:
                self._put(unit)
            if any(unit.kind is Kind.JOB for unit in request.units):
                self._write_jobs()
            return
        chosen = [managed for name in request.names for managed in self._named(name)]
        if request.do not in ("remove", "stop", "start", "restart"):
            raise StackError(f"unknown request {request.do!r}")
        for managed in chosen:
            if request.do == "restart":
                managed.ask_restart(request.reason or "asked for")
            elif request.do == "start":
                managed.ask_start()
            else:
                managed.leaving = request.do == "remove"
                managed.ask_stop()
        if request.do == "remove":
            self._write_jobs()

    def _put(self, unit: Unit) -> None:
        known = self.managed.get(unit.name)
        if known is None:
            self.managed[unit.name] = Managed(unit, self.settings.supervisor, self.clock)
            return
        known.leaving = False
        current = known.successor or known.unit
        if current == unit:
            if not known.wanted:
                known.ask_start()
        elif known.process is None:
            known.unit = unit
            known.ask_start()
        else:
            known.successor = unit
            known.ask_restart("replaced")

    def _named(self, name: str) -> list[Managed]:
        found = [unit for unit in self.managed.values() if name in (unit.unit.name, unit.unit.service)]
        if not found:
            raise UnknownName("unit", name, self.managed)
        return found

    # -- records ----------------------------------------------------------------------------------

    def _do_chores(self) -> None:
        if self.chores is not None:
            if self.chores.done():
                for name, rss_mb in self.chores.result().items():
                    if name in self.managed and self.managed[name].process is not None:
                        self.managed[name].rss_mb = rss_mb
                self.chores, self._changed = None, True
        elif self.clock.monotonic() >= self._chores_at:
            self._chores_at = self.clock.monotonic() + CHORES_S
            pids = {name: unit.process.pid for name, unit in self.managed.items() if unit.process is not None}
            logs = [unit.unit.log for unit in self.managed.values()]
            self.chores = self.probes.submit(_chores, pids, logs)

    def _write(self) -> None:
        self.run_folder.write_state(
            StackState(
                supervisor=self._me,
                at=self.clock.now(),
                units=tuple(unit.status() for unit in self.managed.values()),
            )
        )
        self._changed = False

    def _write_jobs(self) -> None:
        self.run_folder.write_jobs(
            unit.successor or unit.unit for unit in self.managed.values() if not unit.leaving
        )


def _chores(pids: dict[str, int], logs: list[str]) -> dict[str, float]:
    for path in logs:
        trim_log(Path(path))
    return {name: resident_mb(pid) for name, pid in pids.items()}


def listen(daemon: Daemon) -> socket.socket:
    """Accept requests in threads of their own and pass them to the loop."""
    path = control.socket_path(daemon.settings.root)
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    path.chmod(0o600)
    server.listen(16)
    handlers = ThreadPoolExecutor(4, thread_name_prefix="control")

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(control.TIMEOUT_S)
            try:
                request = control.receive(connection)
                replies: queue.Queue[Reply] = queue.Queue(maxsize=1)
                daemon.inbox.put((request, replies), timeout=control.TIMEOUT_S)
                reply = replies.get(timeout=control.TIMEOUT_S)
            except (ValueError, msgspec.MsgspecError, queue.Full, queue.Empty) as error:
                reply = Reply(error=f"the request was not taken: {error or type(error).__name__}")
            connection.sendall(msgspec.json.encode(reply) + b"\n")

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            handlers.submit(handle, connection)

    threading.Thread(target=accept, name="accept", daemon=True).start()
    return server


def only_one(folder: RunFolder) -> TextIO:
    """Hold the folder's lock as long as the returned file is open. Raises `StackError` when it is held."""
    lock = folder.lock_file.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StackError(
            "a supervisor already runs for this folder", where=str(folder.folder), mend="use that one"
        ) from error
    return lock


def end_left_over(folder: RunFolder, timeout_s: float) -> list[int]:
    """End the units that a supervisor recorded and did not outlive, the highest stage first."""
    state = folder.read_state()
    ended: list[int] = []
    if state is not None:
        for stage in sorted({unit.stage for unit in state.units}, reverse=True):
            rows = [
                (unit.identity, unit.stop_signal)
                for unit in state.units
                if unit.stage == stage and unit.identity is not None
            ]
            ended += end([(identity, number) for identity, number in rows if identity], timeout_s)
    return ended


def serve(given: Settings, raise_alert: RaiseAlert | None = None) -> None:
    """Run the supervisor of `given.root` in this process until it is told to stop (request or SIGTERM)."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    folder = RunFolder(given.root)
    folder.create()
    with only_one(folder):
        left = end_left_over(folder, given.supervisor.stop_timeout_s)
        if left:
            log.warning("ended processes left by a supervisor before: %s", left)
        daemon = Daemon(given, SystemClock(), raise_alert)

        def stop(_number: int, _frame: object) -> None:
            daemon.shutting_down = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        server = listen(daemon)
        log.info("supervising %s, pid %d", given.root, os.getpid())
        try:
            daemon.run()
        finally:
            server.close()
            control.remove_socket(given.root)
            log.info("stopped")


if __name__ == "__main__":
    serve(settings())
