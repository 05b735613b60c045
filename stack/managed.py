"""One unit under supervision: its specification, its process, and what is to become of it."""

import logging
import os
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from core.clock import Clock, from_millis
from core.settings import Supervisor
from stack.process import Identity, describe_exit, kill_group, signal_process, spawn
from stack.state import Note, UnitStatus
from stack.unit import Unit
from stack.watch import Question, Restart, State, Watch

log = logging.getLogger("stack.supervisor")

HUNG_GRACE_S = 5.0  # a process that answers nothing gets this long to go by itself


@dataclass
class Managed:
    """Runs in the supervisor's main loop only; nothing here waits.

    `wanted`: it should run. `successor`: the specification to go on with after the stop.
    `leaving`: drop it after the stop.
    """

    unit: Unit
    policy: Supervisor
    clock: Clock
    wanted: bool = True
    leaving: bool = False
    successor: Unit | None = None
    process: subprocess.Popen[bytes] | None = None
    identity: Identity | None = None
    generation: int = 0
    probe_port: int | None = None
    rss_mb: float = 0.0
    in_flight: set[Question] = field(default_factory=set)
    _start_at: float = 0.0
    _kill_at: float | None = None
    _delay_s: float = 0.0

    def __post_init__(self) -> None:
        self.watch = Watch(self.policy, self.clock, self.unit.patience_s)

    @property
    def state(self) -> State:
        return self.watch.state

    def may_start(self) -> bool:
        """Wanted, without a process, and past its back-off; what it comes after is not looked at here."""
        return (
            self.wanted
            and not self.leaving
            and self.process is None
            and self.state in (State.WAITING, State.BACKOFF)
            and self.clock.monotonic() >= self._start_at
        )

    def wait(self) -> bool:
        """Held up by a unit it comes after. True when that is news."""
        changed = self.state is not State.WAITING
        self.watch.state = State.WAITING
        return changed

    def start(self) -> Restart | None:
        """Start the process. A failure to do so counts like an exit."""
        self.generation += 1
        self.in_flight.clear()
        self.probe_port = self.unit.probe_port
        if self.probe_port == 0:
            self.probe_port = free_port()
        env = {**os.environ, **self.unit.env, "MILLSTREAM_RESTARTS": str(self.watch.restarts)}
        if self.probe_port is not None:
            env["MILLSTREAM_PROBE_PORT"] = str(self.probe_port)
        try:
            process = spawn(self.unit.argv, env=env, cwd=self.unit.cwd, log=Path(self.unit.log))
        except OSError as error:
            return self.restarted(self.watch.exited(f"cannot be started: {error}"))
        self.process, self.identity = process, Identity.of(process.pid)
        self.watch.started()
        log.info("%s started, pid %d", self.unit.name, process.pid)
        return None

    def reap(self) -> tuple[bool, Restart | None]:
        """Whether the process has just ended, and the restart that follows when nobody asked for the end."""
        if self.process is None:
            return False, None
        code = self.process.poll()
        if code is None:
            return False, None
        kill_group(self.process.pid)  # whatever it left behind
        how, expected = describe_exit(code), self.state is State.STOPPING
        log.info("%s ended, %s", self.unit.name, how)
        self.process = self.identity = None
        self.rss_mb, self._kill_at = 0.0, None
        if not expected:
            return True, self.restarted(self.watch.exited(how))
        if self.successor is not None:
            self.unit, self.successor = self.successor, None
            self.watch.patience_s = self.unit.patience_s
        self.watch.state = State.BACKOFF if self.wanted else State.STOPPED
        self._start_at = self.clock.monotonic() + self._delay_s
        return True, None

    def restarted(self, restart: Restart) -> Restart:
        """Carry out a decision to restart: end the process if there is one, start after the delay."""
        log.warning("%s: %s; starts again in %g s", self.unit.name, restart.reason, restart.delay_s)
        self._delay_s = restart.delay_s
        self._start_at = self.clock.monotonic() + restart.delay_s
        if self.process is not None:
            self._end(min(HUNG_GRACE_S, self.policy.stop_timeout_s))
        return restart

    def ask_restart(self, reason: str) -> None:
        """Someone's wish: a graceful stop, then a start."""
        self.wanted = True
        if self.state is State.STOPPING:
            self._delay_s = 0.0
            return
        restart = self.watch.asked(reason)
        self._delay_s, self._start_at = restart.delay_s, self.clock.monotonic()
        if self.process is not None:
            self._end(self.policy.stop_timeout_s)

    def ask_stop(self) -> None:
        self.wanted = False
        if self.process is None:
            self.watch.state = State.STOPPED
        elif self.state is not State.STOPPING:
            self._end(self.policy.stop_timeout_s)

    def ask_start(self) -> None:
        self.wanted = True
        if self.process is None:
            self.watch.state, self._start_at = State.WAITING, 0.0
        else:
            self._delay_s = 0.0

    def insist(self) -> None:
        """SIGKILL to a process that did not go in time."""
        if self.process is None or self._kill_at is None or self.clock.monotonic() < self._kill_at:
            return
        log.warning("%s does not stop and is killed", self.unit.name)
        kill_group(self.process.pid)
        self._kill_at = None

    def _end(self, grace_s: float) -> None:
        if self.process is None:
            return
        self.watch.state = State.STOPPING
        self._kill_at = self.clock.monotonic() + grace_s
        signal_process(self.process.pid, self.unit.stop_signal)
        signal_process(self.process.pid, signal.SIGCONT)  # a stopped process could not even end itself

    def status(self) -> UnitStatus:
        identity, unit = self.identity, self.unit
        address = unit.address
        if address is None and self.probe_port is not None:
            scheme = "https" if unit.ready.kind == "own-https" else "http"
            address = f"{scheme}://127.0.0.1:{self.probe_port}"
        return UnitStatus(
            name=unit.name,
            service=unit.service,
            kind=unit.kind,
            state=str(self.state),
            pid=identity.pid if identity else None,
            started=identity.started if identity else None,
            since=from_millis(int(identity.started * 1000)) if identity else None,
            restarts=self.watch.restarts,
            reasons=tuple(Note(reason.at, reason.text) for reason in self.watch.reasons),
            rss_mb=self.rss_mb,
            address=address,
            probe_port=self.probe_port,
            log=unit.log,
            stage=unit.stage,
            stop_signal=unit.stop_signal,
        )


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
