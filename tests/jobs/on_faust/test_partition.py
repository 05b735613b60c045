"""The state of a partition: from any checkpoint on it does what it would have done without a restart."""

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import from_millis
from features.compile.running import RunningView
from features.view import Count, Feature, FeatureView, Last, Sum, Tumbling
from jobs.on_faust.partition import Checkpoint, PartitionState
from tests.features.rides import SECOND, Ride, ride

VIEW = RunningView(
    FeatureView(
        name="rides",
        version=1,
        source=Ride,
        entity="city",
        disorder=SECOND,
        window=Tumbling(5 * SECOND),
        features=(
            Feature("rides", Count(), unit="rides", empty=0),
            Feature("fares", Sum("fare"), unit="cents", empty=0),
            Feature("last", Last("fare"), unit="cents"),
        ),
        ttl=timedelta(minutes=2),
    )
)
Message = Ride | int
"""An event, or the watermark of a tick."""


def new_state(horizon: timedelta = 8 * SECOND, disorder: timedelta = SECOND) -> PartitionState:
    return PartitionState(VIEW, horizon=horizon, disorder=disorder)


def take(state: PartitionState, message: Message, offset: int) -> list[Any]:
    """What follows from a message: its outcome, and the windows it closes."""
    out: list[Any] = []
    if isinstance(message, int):
        state.tick(message, offset)
    else:
        out.append(state.event(message, offset))
    return [*out, *state.closed()]


def resumed(log: list[Message], checkpoint: Checkpoint) -> PartitionState:
    state = new_state()
    state.resume(checkpoint)
    for offset in range(checkpoint.replay, checkpoint.done):
        message = log[offset]
        if isinstance(message, int):
            state.tick(message, offset)
        else:
            state.again(message, offset, checkpoint)
    state.resumed(checkpoint)
    return state


@st.composite
def logs(draw: st.DrawFn) -> list[Message]:
    """Time goes on by up to three seconds a message, some come up to four behind, ids come again with the
    same and with other times, soon and beyond the horizon."""
    out: list[Message] = []
    now = 0
    for _ in range(draw(st.integers(1, 40))):
        now += draw(st.sampled_from([0, 0, 500, 1_000, 3_000]))
        at = now - draw(st.sampled_from([0, 0, 0, 999, 1_000, 1_001, 4_000]))
        if draw(st.integers(0, 9)) == 0:
            out.append(at)
        else:
            number, city = draw(st.integers(0, 12)), draw(st.sampled_from("ab"))
            out.append(ride(str(number), at / 1000, city=city, fare=draw(st.integers(-3, 9))))
    return out


@settings(deadline=None, max_examples=300)
@given(logs())
def test_a_restart_at_any_place_changes_nothing(log: list[Message]) -> None:
    straight = new_state()
    checkpoints, results = [], []
    for offset, message in enumerate(log):
        checkpoints.append(straight.checkpoint())
        results.append(take(straight, message, offset))
    for at, checkpoint in enumerate(checkpoints):
        assert checkpoint.replay <= checkpoint.windows <= checkpoint.done == at
        state = resumed(log, checkpoint)
        for offset in range(at, len(log)):
            assert take(state, log[offset], offset) == results[offset], (at, offset)
            state.checkpoint()  # which forgets ids, and must not forget too many


@settings(deadline=None)
@given(logs())
def test_a_window_that_was_closed_stays_closed_under_a_wider_bound(log: list[Message]) -> None:
    straight = new_state()
    closed = [row for offset, message in enumerate(log) for row in take(straight, message, offset)[1:]]
    checkpoint = straight.checkpoint()
    state = new_state(disorder=60 * SECOND)
    state.resume(checkpoint)
    for offset in range(checkpoint.replay, checkpoint.done):
        message = log[offset]
        if isinstance(message, int):
            state.tick(message, offset)
        else:
            state.again(message, offset, checkpoint)
    state.resumed(checkpoint)
    later = take(state, 10**9, len(log))
    ends = {(row.tenant, row.entity, row.end_ms) for row in closed if not isinstance(row, str)}
    assert not ends & {(row.tenant, row.entity, row.end_ms) for row in later}


def test_late_is_at_the_watermark_and_not_ahead_of_it() -> None:
    state = new_state()
    assert state.event(ride("1", 10), 0) == "taken"
    assert state.event(ride("2", 9), 1) == "late"
    assert state.event(ride("3", 9.001), 2) == "taken"


def test_without_disorder_equal_times_are_in_time() -> None:
    state = new_state(disorder=timedelta(0))
    assert [state.event(ride(str(n), 10), n) for n in range(3)] == ["taken"] * 3
    assert state.event(ride("4", 9.999), 3) == "late"


def test_a_window_is_closed_by_the_last_millisecond_before_its_end() -> None:
    state = new_state()
    state.event(ride("1", 4.5, fare=7), 0)
    assert take(state, ride("2", 5.998), 1) == ["taken"]
    (outcome, row) = take(state, ride("3", 5.999), 2)
    assert (outcome, row.end_ms, row.values) == ("taken", 5_000, {"rides": 1, "fares": 7, "last": 7})


def test_an_id_is_one_per_tenant_and_known_for_the_horizon_after_it_was_last_seen() -> None:
    state = new_state()
    assert state.event(ride("1", 0), 0) == "taken"
    assert state.event(ride("1", 0, tenant="u"), 1) == "taken"
    assert state.event(ride("1", 8), 2) == "repeat"
    assert state.event(ride("2", 15), 3) == "taken"
    assert state.event(ride("1", 15), 4) == "repeat"
    assert state.event(ride("3", 30), 5) == "taken"
    assert state.event(ride("1", 30), 6) == "taken"


def test_what_is_remembered_is_bounded_by_the_horizon() -> None:
    state = new_state()
    for n in range(1_000):
        take(state, ride(str(n), n), n)
        checkpoint = state.checkpoint()
        assert n + 1 - checkpoint.replay <= 16
    assert checkpoint.windows == 995
    assert checkpoint.before == 981_000 - 1_000 + 1_000 * (checkpoint.replay - 982)
    assert from_millis(checkpoint.reached or 0) == from_millis(998_000)
