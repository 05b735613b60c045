"""Thresholds that are passed become alerts on Kafka: raised once and cleared once by all processes."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from core.clock import ManualClock, SystemClock
from core.errors import Rejected, Unavailable
from core.ids import new_id
from core.settings import Alerting, Settings, settings
from jobs.worker.rate_alerts import RateAlerts, alert_of, rates_of
from operators.error_rates import ErrorRates, Standing, Threshold
from pipelines.on_redis.raised import Due, RaisedAlerts
from schemas.catalog.alerts import SYSTEM_TENANT
from stack.local import Stack
from tests.jobs.worker.on_kafka import Alerts, Bench, until
from tests.jobs.worker.payments import BREAKS, payment

pytestmark = pytest.mark.services
SEVERE = Threshold("infer", 0.1, calls=10, severity="critical")
MINUTE = timedelta(minutes=1)


class Watcher:
    """One process of a pipeline: its counts, and what it tells."""

    def __init__(self, source: str, clock: ManualClock, client: redis.Redis, name: str) -> None:
        self.rates = ErrorRates(source, clock, [SEVERE])
        raised = RaisedAlerts(client, source=source, instance=name)
        self.alerts = RateAlerts(
            self.rates, raised, pipeline=source, settings=settings(), clock=clock, stop=threading.Event()
        )

    def count(self, failed: int, well: int) -> "Watcher":
        self.rates.count("infer", "model_failed", failed)
        self.rates.count("infer", None, well)
        return self


@pytest.fixture
def source(stack: Stack) -> str:
    del stack
    return f"t{new_id()}"


def watchers(source: str, clock: ManualClock, client: redis.Redis | None = None) -> Callable[[str], Watcher]:
    client = client or redis.Redis.from_url(settings().redis.address)
    return lambda name: Watcher(source, clock, client, name)


def test_an_alert_is_raised_once_and_cleared_once_by_all_who_watch(source: str) -> None:
    clock, told = ManualClock(), Alerts(source)
    made = watchers(source, clock)
    first, second = made("a").count(3, 17), made("b").count(5, 5)
    for _ in range(3):
        for one in (first, second):
            one.alerts.step()
        clock.advance(timedelta(seconds=5))
    (alert,) = told.all()
    assert (alert.tenant, alert.kind, alert.subject, alert.severity) == (
        SYSTEM_TENANT,
        "error_rate",
        "infer",
        "critical",
    )
    assert alert.text == "3 of 20 calls of infer failed with any error within 1 min, above 10.0%"
    assert alert.raised_at == ManualClock().at
    first.count(0, 100).alerts.step()
    second.alerts.step()
    assert told.kinds() == ["error_rate"], "the other is above it still"
    clock.advance(2 * MINUTE)
    second.alerts.step()
    first.alerts.step()
    raised, cleared = told.all()
    assert (cleared.kind, cleared.severity) == ("error_rate_cleared", "info")
    assert cleared.deduplication_key.rpartition(":")[2] == raised.deduplication_key.rpartition(":")[2]
    second.count(9, 1).alerts.step()
    assert told.kinds() == ["error_rate", "error_rate_cleared", "error_rate"]
    assert len({one.deduplication_key for one in told.all()}) == 3


@pytest.mark.parametrize("counted", [True, False], ids=["all is well", "nothing to count"])
def test_a_restart_neither_raises_again_nor_forgets_to_clear(source: str, counted: bool) -> None:
    clock, told = ManualClock(), Alerts(source)
    made = watchers(source, clock)
    made("a").count(9, 1).alerts.step()
    again = made("a, restarted")
    again.alerts.step()
    again.count(9, 1).alerts.step()
    assert told.kinds() == ["error_rate"]
    third = made("a, restarted once more")
    clock.advance(MINUTE - timedelta(seconds=1))
    third.alerts.step()
    assert told.kinds() == ["error_rate"], "it knows nothing yet"
    if counted:
        third.count(0, 10).alerts.step()
    else:
        clock.advance(timedelta(seconds=2))
    third.alerts.step()
    third.alerts.step()
    assert told.kinds() == ["error_rate", "error_rate_cleared"]


def test_what_could_not_be_published_is_told_with_the_next_look(source: str) -> None:
    clock, told = ManualClock(), Alerts(source)
    away = settings().model_copy(
        update={"registry": settings().registry.model_copy(update={"url": "http://127.0.0.1:1"})}
    )
    rates = ErrorRates(source, clock, [SEVERE])
    raised = RaisedAlerts(redis.Redis.from_url(settings().redis.address), source=source, instance="a")
    deaf = RateAlerts(rates, raised, pipeline=source, settings=away, clock=clock, stop=threading.Event())
    rates.count("infer", "model_failed", 50)
    with pytest.raises(Unavailable):
        deaf.step()
    began = clock.at
    clock.advance(timedelta(seconds=5))
    watchers(source, clock)("b").count(9, 1).alerts.step()
    (alert,) = told.all()
    assert alert.raised_at == began, "it began when the first one saw it"


def test_without_redis_a_process_goes_by_its_own_memory(source: str) -> None:
    clock, told = ManualClock(), Alerts(source)
    made = watchers(source, clock, redis.Redis(port=1, socket_connect_timeout=0.2))
    one = made("a").count(9, 1)
    for _ in range(3):
        one.alerts.step()
    assert told.kinds() == ["error_rate"]
    clock.advance(2 * MINUTE)
    for _ in range(3):
        one.alerts.step()
    assert told.kinds() == ["error_rate", "error_rate_cleared"]


@given(st.integers(0, 10**13), st.sampled_from(["raise", "clear"]), st.integers(0, 9), st.integers(0, 10**6))
def test_every_telling_of_the_same_is_the_same_alert(
    since_ms: int, what: Any, failed: int, later_ms: int
) -> None:
    """Whatever was counted meanwhile, and by whom."""
    tellings = [
        alert_of("p", Standing(SEVERE, what == "raise", 9, failures), Due(what, since_ms), now_ms=now_ms)
        for failures, now_ms in ((failed, since_ms), (0, since_ms + later_ms))
    ]
    assert len({(one.id, one.deduplication_key) for one in tellings}) == 1
    other = alert_of("p", Standing(SEVERE, True, 9, failed), Due(what, since_ms + 1), now_ms=0)
    assert other.deduplication_key != tellings[0].deduplication_key


def test_a_file_of_thresholds_that_makes_no_sense_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "rates.toml"
    file.write_text("[[threshold]]\n")
    wrong = Settings(alerting=Alerting(thresholds=file))
    with pytest.raises(Rejected):
        rates_of("p", wrong, SystemClock())


def test_a_worker_tells_what_it_could_not_score_even_killed_in_between(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process on Kafka: a seventh of what it reads breaks the model, then all is well again."""
    del stack
    file = tmp_path / "rates.toml"
    file.write_text(
        '[[threshold]]\noperator = "infer"\nrate = 0.05\nminutes = 5\ncalls = 20\n'
        '[[threshold]]\noperator = "decode"\ncode = "not_avro"\nrate = 0.5\nminutes = 1\ncalls = 10\n'
    )
    monkeypatch.setenv("MILLSTREAM_ALERTING__THRESHOLDS", str(file))
    monkeypatch.setenv("MILLSTREAM_ALERTING__PERIOD_S", "0.1")
    bench = Bench()
    told = Alerts(bench.domain)
    with bench.worker() as worker:
        bench.send([payment(n, BREAKS if n % 7 == 0 else 500) for n in range(100)])
        until(lambda: told.kinds() == ["error_rate"], "the alert is raised")
        rate = 'millstream_operator_error_rate{code="model_failed",operator="infer",pipeline='
        (line,) = [
            line
            for line in worker.ask("/metrics")[1].splitlines()
            if line.startswith(rate) and '"60s"' in line
        ]
        assert float(line.split()[-1]) == pytest.approx(0.15)
        worker.kill()
    with bench.worker():
        bench.send([payment(n, BREAKS if n % 7 == 0 else 500) for n in range(200, 300)])
        until(lambda: bench.lag() == 0, "all inputs are committed")
        bench.send([payment(n, 500) for n in range(300, 2500)])
        until(lambda: told.kinds()[1:] == ["error_rate_cleared"], "the alert is cleared")
    assert {alert.subject for alert in told.all()} == {"infer"}
