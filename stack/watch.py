"""When to restart, when to take out, when to raise an alert: decisions only, no processes and no sockets.

A `Watch` is told what happened to one unit (started, answered, exited) and says what to do. Time comes
from a `Clock`, so that every rule is tested without waiting. The rules are those of a Kubernetes pod with
a liveness and a readiness probe; the numbers come from `settings().supervisor`.
"""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from core.clock import Clock
from core.settings import Supervisor
from stack.probes import Answer

STARTING_INTERVAL_S = 0.25  # until the first good answer, readiness is asked this often
KEPT_REASONS = 20


class State(StrEnum):
    WAITING = "waiting"  # for the units it comes after
    STARTING = "starting"  # runs, was not ready yet
    READY = "ready"
    OUT = "out"  # runs, but must not be used
    STOPPING = "stopping"
    BACKOFF = "backoff"  # will be started again
    STOPPED = "stopped"


class Question(StrEnum):
    HEALTH = "health"
    READY = "ready"


@dataclass(frozen=True)
class Reason:
    """Why a unit was restarted or taken out, and when."""

    at: datetime
    text: str


@dataclass(frozen=True)
class Restart:
    """What to do: make sure that the process is gone, start it again `delay_s` after now.

    `alert`: this restart is the one that crossed the limit; raise an alert of severity `high`.
    """

    reason: str
    delay_s: float
    alert: bool = False


@dataclass
class Watch:
    """One unit's watch. `patience_s`: health counts so late after a start that was not ready yet."""

    policy: Supervisor
    clock: Clock
    patience_s: float = 0.0
    state: State = State.WAITING
    restarts: int = 0
    reasons: deque[Reason] = field(default_factory=lambda: deque(maxlen=KEPT_REASONS))
    _started: float = 0.0
    _was_ready: bool = False
    _health_failures: int = 0
    _ready_failures: int = 0
    _next_health: float = 0.0
    _next_ready: float = 0.0
    _last_counted: float = float("-inf")
    _recent: deque[float] = field(default_factory=deque)
    _alerting: bool = False

    def started(self) -> None:
        """The process was started just now."""
        now = self.clock.monotonic()
        self.state = State.STARTING
        self._started, self._was_ready = now, False
        self._health_failures = self._ready_failures = 0
        self._last_counted = float("-inf")
        self._next_health = now + self.policy.health_interval_s
        self._next_ready = now

    def due(self) -> tuple[Question, ...]:
        """The questions to ask now. Each is due again one interval after this call."""
        if self.state not in (State.STARTING, State.READY, State.OUT):
            return ()
        now, questions = self.clock.monotonic(), []
        if now >= self._next_health:
            questions.append(Question.HEALTH)
            self._next_health = now + self.policy.health_interval_s
        if now >= self._next_ready:
            questions.append(Question.READY)
            starting = self.state is State.STARTING
            self._next_ready = now + (STARTING_INTERVAL_S if starting else self.policy.ready_interval_s)
        return tuple(questions)

    def answered(self, question: Question, answer: Answer) -> Restart | None:
        """An answer came in (or failed to). Only a third health failure in a row asks for a restart."""
        if self.state not in (State.STARTING, State.READY, State.OUT):
            return None
        if question is Question.READY:
            self._ready_answered(answer)
            return None
        if answer.ok:
            self._health_failures = 0
            return None
        patience_s = 0.0 if self._was_ready else self.patience_s
        if self.clock.monotonic() - self._started < max(self.policy.health_delay_s, patience_s):
            return None
        self._health_failures += 1
        if self._health_failures < self.policy.health_failures:
            return None
        return self._restart(f"{self._health_failures} health checks in a row failed: {answer.reason}")

    def exited(self, how: str) -> Restart:
        """The process is gone without having been asked to go."""
        return self._restart(f"exited: {how}")

    def asked(self, reason: str) -> Restart:
        """Someone wants a restart: at once, and it does not count towards back-off and alert."""
        self._note(reason)
        self.restarts += 1
        self.state = State.BACKOFF
        return Restart(reason, 0.0)

    def _ready_answered(self, answer: Answer) -> None:
        if answer.ok:
            self._ready_failures, self._was_ready = 0, True
            if self.state is State.OUT:
                self._note("ready again")
            self.state = State.READY
            return
        now = self.clock.monotonic()
        if now - self._started < self.policy.ready_delay_s:
            return
        often_asked = self.state is State.STARTING  # there, only one failure per interval counts
        if often_asked and now - self._last_counted < self.policy.ready_interval_s:
            return
        self._last_counted = now
        self._ready_failures += 1
        if self._ready_failures >= self.policy.ready_failures and self.state is not State.OUT:
            self.state = State.OUT
            self._note(f"taken out, {self._ready_failures} readiness checks in a row failed: {answer.reason}")

    def _restart(self, reason: str) -> Restart:
        now = self.clock.monotonic()
        self._note(reason)
        self.restarts += 1
        self._recent.append(now)
        while now - self._recent[0] > self.policy.alert_window_s:
            self._recent.popleft()
        count = len(self._recent)
        over = count > self.policy.alert_restarts
        alert, self._alerting = over and not self._alerting, over
        delay = self.policy.backoff_longest_s
        if not over:
            delay = min(delay, self.policy.backoff_first_s * 2 ** (count - 1))
        self.state = State.BACKOFF
        return Restart(reason, delay, alert)

    def _note(self, text: str) -> None:
        self.reasons.append(Reason(self.clock.now(), text))
