"""The rules of restart, readiness, back-off and alert, with a clock that moves when told."""

from datetime import timedelta

import pytest

from core.clock import ManualClock
from core.settings import Supervisor
from stack.probes import Answer
from stack.watch import Question, Restart, State, Watch

GOOD, BAD = Answer(True), Answer(False, "no answer")
POLICY = Supervisor()  # the defaults are the documented numbers: 10 s x 3, 5 s x 2, after 30 s and 10 s


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def watch(clock: ManualClock) -> Watch:
    watched = Watch(POLICY, clock)
    watched.started()
    return watched


def run(
    watch: Watch, clock: ManualClock, seconds: float, *, health: Answer = GOOD, ready: Answer = GOOD
) -> list[tuple[float, Restart]]:
    """Answer what is asked for so long, in steps of 250 ms; the restarts with their times."""
    restarts = []
    for _ in range(int(seconds * 4)):
        for question in watch.due():
            restart = watch.answered(question, health if question is Question.HEALTH else ready)
            if restart:
                restarts.append((clock.elapsed, restart))
        clock.advance(timedelta(milliseconds=250))
    return restarts


def test_becomes_ready_with_the_first_good_answer(watch: Watch, clock: ManualClock) -> None:
    run(watch, clock, 5, ready=BAD)
    assert watch.state is State.STARTING
    run(watch, clock, 0.5)
    assert watch.state is State.READY


def test_three_failed_health_checks_in_a_row_restart(watch: Watch, clock: ManualClock) -> None:
    run(watch, clock, 35)
    restarts = run(watch, clock, 60, health=BAD)
    # asked at 40, 50, 60 s
    assert [at for at, _ in restarts] == [60.0]
    assert "3 health checks in a row failed: no answer" in restarts[0][1].reason
    assert watch.restarts == 1


def test_a_good_answer_between_starts_the_count_again(watch: Watch, clock: ManualClock) -> None:
    run(watch, clock, 35)
    for _ in range(5):
        assert run(watch, clock, 20, health=BAD) == []  # two failures
        assert run(watch, clock, 10) == []
    assert watch.restarts == 0


def test_health_counts_from_thirty_seconds_after_the_start(watch: Watch, clock: ManualClock) -> None:
    restarts = run(watch, clock, 60, health=BAD)
    # asked at 10, 20 (too early), 30, 40, 50 s
    assert [at for at, _ in restarts] == [50.0]


def test_a_patient_start_is_not_cut_short_but_the_patience_ends_with_the_first_ready(
    clock: ManualClock,
) -> None:
    watch = Watch(POLICY, clock, patience_s=300)
    watch.started()
    assert run(watch, clock, 290, health=BAD, ready=BAD) == []
    assert len(run(watch, clock, 60, health=BAD, ready=BAD)) == 1
    watch.started()
    run(watch, clock, 31)
    assert len(run(watch, clock, 30, health=BAD)) == 1


def test_two_failed_readiness_checks_take_out_and_one_good_brings_back(
    watch: Watch, clock: ManualClock
) -> None:
    run(watch, clock, 20)
    run(watch, clock, 5, ready=BAD)
    assert watch.state is State.READY
    run(watch, clock, 5, ready=BAD)
    assert watch.state is State.OUT
    assert "2 readiness checks in a row failed" in watch.reasons[-1].text
    assert run(watch, clock, 600, ready=BAD) == []  # never restarts for it
    run(watch, clock, 5)
    assert watch.state is State.READY


def test_readiness_counts_from_ten_seconds_after_the_start(watch: Watch, clock: ManualClock) -> None:
    run(watch, clock, 15, ready=BAD)
    assert watch.state is State.STARTING  # asked four times a second, but one failure counts per 5 s
    run(watch, clock, 0.5, ready=BAD)
    assert watch.state is State.OUT


def test_an_exit_restarts_at_once_after_the_back_off_which_doubles(watch: Watch, clock: ManualClock) -> None:
    delays = []
    for _ in range(3):
        delays.append(watch.exited("code 1").delay_s)
        clock.advance(timedelta(seconds=10))
        watch.started()
    assert delays == [1.0, 2.0, 4.0]
    assert watch.reasons[0].text == "exited: code 1"


def test_more_than_three_restarts_in_five_minutes_alert_once_and_go_on_at_the_longest_back_off(
    watch: Watch, clock: ManualClock
) -> None:
    decisions = []
    for _ in range(6):
        decisions.append(watch.exited("code 1"))
        clock.advance(timedelta(seconds=30))
        watch.started()
    assert [decision.alert for decision in decisions] == [False, False, False, True, False, False]
    assert [decision.delay_s for decision in decisions[3:]] == [POLICY.backoff_longest_s] * 3


def test_three_restarts_in_five_minutes_are_no_alert(watch: Watch, clock: ManualClock) -> None:
    for _ in range(12):
        assert not watch.exited("code 1").alert
        clock.advance(timedelta(seconds=101))
        watch.started()


def test_after_a_quiet_window_back_off_and_alert_begin_again(watch: Watch, clock: ManualClock) -> None:
    for _ in range(4):
        last = watch.exited("code 1")
    assert last.alert
    clock.advance(timedelta(seconds=301))
    again = watch.exited("code 1")
    assert (again.delay_s, again.alert) == (1.0, False)
    assert [watch.exited("code 1").alert for _ in range(3)] == [False, False, True]


def test_a_restart_that_was_asked_for_does_not_count_against_it(watch: Watch) -> None:
    for _ in range(10):
        assert watch.asked("asked for") == Restart("asked for", 0.0)
    assert watch.restarts == 10
    assert watch.exited("code 1").delay_s == 1.0


def test_answers_about_a_process_that_is_gone_change_nothing(watch: Watch) -> None:
    watch.exited("signal SIGKILL")
    assert watch.answered(Question.READY, GOOD) is None
    assert watch.state is State.BACKOFF
    assert watch.due() == ()
