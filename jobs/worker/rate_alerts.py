"""Rate alerts: thresholds of error rates that are passed become alerts, each raised once and cleared once.

A thread of its own looks every few seconds; what counts only counts. All processes of a pipeline share in
Redis what they have raised (`pipelines.on_redis.raised`): an alert stands while one of them is above the
threshold, and outlives their restarts: one that ended is waited for as long as the window is, or until
another one has counted enough to know that all is well. With Redis away a process goes by its own memory, so
that another one may raise the same again.
"""

import threading
from datetime import timedelta

from core.clock import Clock, from_millis, to_millis
from core.errors import MillstreamError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from operators.error_rates import ErrorRates, Standing
from pipelines.on_redis.raised import Due, RaisedAlerts
from pipelines.outbox import RecordOutbox
from pipelines.thresholds import thresholds
from schemas.catalog.alerts import ALERTS, SYSTEM_TENANT, Alert
from schemas.registry import SchemaRegistry

_LOG = logger("worker.rates")
LEASE = 3
RAISED, CLEARED = "error_rate", "error_rate_cleared"


def rates_of(pipeline: str, settings: Settings, clock: Clock) -> ErrorRates:
    """Error rates of a pipeline with the thresholds of the settings; raises as `thresholds` does."""
    return ErrorRates(pipeline, clock, thresholds(pipeline, settings.alerting.thresholds))


class RateAlerts:
    """`start` once; the thread ends with `stop`. Nothing raises: what cannot be told now is told later."""

    def __init__(
        self,
        rates: ErrorRates,
        raised: RaisedAlerts,
        *,
        pipeline: str,
        settings: Settings,
        clock: Clock,
        stop: threading.Event,
    ) -> None:
        self._rates = rates
        self._raised = raised
        self._pipeline = pipeline
        self._settings = settings
        self._clock = clock
        self._stop = stop
        self._since: dict[str, int] = {}
        self._told: dict[str, Due] = {}
        self._trouble = ""
        self._outbox: RecordOutbox | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="error-rates", daemon=True).start()

    def step(self) -> None:
        """Look once. Raises Unavailable when an alert could not be published: it is due at the next look."""
        for standing in self._rates.standings():
            due = self._due(standing)
            if due is None:
                continue
            name = standing.threshold.name
            if self._told.get(name) != due:  # else it was acknowledged, and only Redis does not know
                self._publish(standing, due)
                self._told[name] = due
            try:
                self._raised.told(name, due, now_ms=self._now_ms())
            except Unavailable as error:
                self._warn(error)

    def _run(self) -> None:
        while not self._stop.wait(self._settings.alerting.period_s):
            try:
                self.step()
            except MillstreamError as error:
                self._warn(error)
            except Exception:
                _LOG.exception("error rates are not being watched; trying again")
        if self._outbox is not None:
            self._outbox.close()

    def _due(self, standing: Standing) -> Due | None:
        name, now_ms = standing.threshold.name, self._now_ms()
        if standing.passed:
            self._since.setdefault(name, now_ms)
        since_ms = self._since.get(name, now_ms)
        if not standing.passed:
            self._since.pop(name, None)
        # one that knows that all is well waits for others no longer than they take to say otherwise
        lease = timedelta(seconds=LEASE * self._settings.alerting.period_s)
        hold = lease if standing.known else standing.threshold.window
        try:
            due = self._raised.settle(name, standing.passed, since_ms=since_ms, now_ms=now_ms, hold=hold)
        except Unavailable as error:
            self._warn(error)
            return self._own(name, standing.passed, since_ms)
        self._trouble = ""
        return due

    def _own(self, name: str, passed: bool, since_ms: int) -> Due | None:
        told = self._told.get(name)
        raised = told is not None and told.what == "raise"
        if passed == raised:
            return None
        return Due("raise", since_ms) if told is None or passed else Due("clear", told.since_ms)

    def _publish(self, standing: Standing, due: Due) -> None:
        if self._outbox is None:
            registry = SchemaRegistry.of(self._settings)
            self._outbox = RecordOutbox(self._settings, registry, source=self._pipeline)
        alert = alert_of(self._pipeline, standing, due, now_ms=self._now_ms())
        self._outbox.publish(ALERTS, [alert])
        tell = _LOG.error if due.what == "raise" else _LOG.info
        tell(alert.text, kind=alert.kind, pipeline=self._pipeline, severity=alert.severity)

    def _warn(self, error: MillstreamError) -> None:
        """Once, until it is another trouble or none."""
        if error.what != self._trouble:
            self._trouble = error.what
            _LOG.warning("alerts of error rates wait", error=str(error))

    def _now_ms(self) -> int:
        return to_millis(self._clock.now())


def alert_of(pipeline: str, standing: Standing, due: Due, *, now_ms: int) -> Alert:
    """Equal for every telling of the same raising, or the same clearing."""
    raised = due.what == "raise"
    kind = RAISED if raised else CLEARED
    key = f"{kind}:{pipeline}:{standing.threshold.name}:{due.since_ms}"
    return Alert(
        tenant=SYSTEM_TENANT,
        id=key,
        severity=standing.threshold.severity if raised else "info",
        kind=kind,
        source=pipeline,
        subject=standing.threshold.operator,
        text=standing.text,
        deduplication_key=key,
        raised_at=from_millis(due.since_ms if raised else now_ms),
    )
