"""When a partition is due a tick, and what a tick never does."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from jobs.on_flink.clock import Ticker

DISORDER = 50


def ticker(partitions: int = 3) -> Ticker:
    made = Ticker(disorder_ms=DISORDER, quiet_s=0.1, lag_s=0.05)
    made.partitions(list(range(partitions)), 0.0)
    return made


def test_nothing_is_ticked_before_the_first_event() -> None:
    assert ticker().due(1_000.0) == []


def test_a_silent_partition_follows_the_others_to_the_newest_event_less_the_bound() -> None:
    clock = ticker()
    clock.event(0, 1_000, 10.0)
    assert clock.due(10.01) == [(1, 950), (2, 950)]
    for partition, at in clock.due(10.01):
        clock.tick(partition, at, 1_000, 10.01)
    clock.event(0, 1_030, 10.03)
    assert clock.due(10.04) == [], "not more often than every 50 ms"
    clock.event(0, 1_050, 10.05)
    assert clock.due(10.07) == [(1, 1_000), (2, 1_000)]


def test_partitions_with_traffic_are_not_ticked() -> None:
    clock = ticker(2)
    for number in range(100):
        now = 10 + number * 0.02
        clock.event(number % 2, 1_000 + number * 20, now)
        assert all(at <= 1_000 + number * 20 for _, at in clock.due(now))
    behind = [partition for partition, _ in clock.due(now)]
    assert behind == [], "the other partition had an event 20 ms ago"


def test_a_quiet_stream_is_ticked_once_in_every_partition_to_the_last_event_and_no_further() -> None:
    clock = ticker()
    clock.event(1, 5_000, 10.0)
    clock.event(2, 4_980, 10.01)
    due = clock.due(10.2)
    assert due == [(0, 5_000), (1, 5_000), (2, 5_000)]
    for partition, at in due:
        clock.tick(partition, at, 5_000, 10.2)
    assert [clock.due(10.2 + wait) for wait in (0.05, 0.1, 1, 3_600)] == [[], [], [], []]


def test_where_windows_wait_the_clock_goes_on_with_the_wall_clock_and_the_bound_behind_it() -> None:
    clock = Ticker(disorder_ms=1_000, quiet_s=2.0, lag_s=0.25, advance_ms=60_000)
    clock.partitions([0], 0.0)
    clock.event(0, 100_000, 10.0)
    assert clock.due(11.9) == [], "not quiet yet"
    for now, watermark in ((12.0, 101_000), (13.0, 102_000), (69.0, 158_000), (71.0, 160_000)):
        assert clock.due(now) == [(0, watermark)]
    assert clock.due(3_600.0) == [(0, 160_000)], "no further than asked"


def test_only_the_ends_of_windows_are_worth_a_tick() -> None:
    clock = Ticker(disorder_ms=1_000, quiet_s=2.0, lag_s=0.25, advance_ms=60_000, every_ms=10_000)
    clock.partitions([0], 0.0)
    clock.event(0, 104_000, 10.0)
    told = []
    for now in range(11, 3_600):
        for partition, watermark in clock.due(float(now)):
            told.append(watermark)
            clock.tick(partition, watermark, 104_000, float(now))
    assert told == [104_000, 110_000, 120_000, 130_000, 140_000, 150_000, 160_000]


def test_a_clock_that_starts_anew_goes_on_from_its_own_start() -> None:
    clock = Ticker(disorder_ms=1_000, quiet_s=2.0, lag_s=0.25, advance_ms=60_000)
    clock.partitions([0], 5_000.0)
    clock.tick(0, 99_000, 100_000, 5_000.0)
    assert clock.due(5_003.0) == [(0, 102_000)]


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(-900, 0)), min_size=1, max_size=50),
    st.integers(0, 60_000),
)
def test_an_event_as_little_delayed_as_the_others_is_never_late(
    gaps: list[tuple[int, int]], advance: int
) -> None:
    """Events with delays of less than the bound, and pauses of any length between them."""
    clock = Ticker(disorder_ms=1_000, quiet_s=2.0, lag_s=0.25, advance_ms=advance)
    clock.partitions([0, 1], 0.0)
    wall = 0
    for number, (gap, delay) in enumerate(gaps):
        for looked in range(wall, wall + gap, 20):
            for partition, watermark in clock.due(looked / 1000):
                clock.tick(partition, watermark, clock.newest, looked / 1000)
                assert watermark < wall + gap + delay or watermark <= (clock.newest or 0)
        wall += gap
        clock.event(number % 2, wall + delay, wall / 1000)


def test_the_next_quiet_period_is_ticked_again() -> None:
    clock = ticker(1)
    for newest, now in ((5_000, 10.0), (5_010, 20.0)):
        clock.event(0, newest, now)
        assert clock.due(now + 0.2) == [(0, newest)]
        clock.tick(0, newest, newest, now + 0.2)
        assert clock.due(now + 0.4) == []


def test_a_clock_that_starts_anew_learns_from_the_ticks_of_the_one_before() -> None:
    clock = ticker(2)
    clock.tick(0, 7_000, 7_000, 1.0)
    assert clock.newest == 7_000
    assert clock.due(2.0) == [(1, 7_000)]


def test_a_tick_means_the_same_to_a_clock_with_another_bound() -> None:
    """A replay runs with a bound of minutes; the clock after it must still let the last rows out."""
    replaying = Ticker(disorder_ms=1_500_000, quiet_s=0.1, lag_s=0.05)
    replaying.partitions([0], 0.0)
    replaying.event(0, 5_000_000, 10.0)
    ((_, flushed),) = replaying.due(10.2)
    clock = ticker(1)
    clock.tick(0, flushed, 5_000_000, 20.0)
    clock.event(0, 5_000_100, 20.0)
    assert clock.due(20.2) == [(0, 5_000_100)]


def test_a_tick_without_a_known_event_moves_only_its_partition() -> None:
    clock = ticker(2)
    clock.tick(0, 7_000, None, 1.0)
    assert clock.due(2.0) == []


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.06, 0.3])))
)
def test_no_tick_takes_a_partition_past_the_newest_event(steps: list[tuple[int, int, float]]) -> None:
    clock, now, newest = ticker(), 1.0, -1
    for (partition, at, wait), _ in zip(steps, count(), strict=False):
        now += wait
        for number, time in clock.due(now):
            assert time <= newest
            clock.tick(number, time, newest, now)
        newest = max(newest, at)
        clock.event(partition, at, now)
