"""Replays keep the original spacing, end now, and scale time bounds by the speed."""

from datetime import timedelta

import numpy as np

from cli.demo.schedule import Recorded, wall_clock


def test_the_last_recorded_event_is_now_and_spacing_is_kept() -> None:
    recorded = np.array([1_000, 61_000, 3_601_000], dtype=np.int64)
    plan = Recorded.of(recorded, now=10_000_000, rate=1.0)
    assert plan.at.tolist() == [6_400_000, 6_460_000, 10_000_000]


def test_events_are_sent_in_proportion_at_the_asked_rate() -> None:
    recorded = np.array([0, 1_000, 10_000], dtype=np.int64)
    plan = Recorded.of(recorded, now=10_000, rate=3.0)
    assert plan.speed == 10.0
    np.testing.assert_allclose(plan.send_at_s, [0.0, 0.1, 1.0])


def test_bounds_grow_with_the_speed_and_are_never_below_themselves() -> None:
    fast = Recorded.of(np.array([0, 100_000], dtype=np.int64), now=0, rate=2.0)
    assert fast.scaled(timedelta(milliseconds=50)) == timedelta(milliseconds=5_000)
    slow = Recorded.of(np.array([0, 100], dtype=np.int64), now=0, rate=0.001)
    assert slow.scaled(timedelta(milliseconds=50)) == timedelta(milliseconds=50)


def test_wall_clock_events_are_due_evenly() -> None:
    np.testing.assert_allclose(wall_clock(3, 200.0), [0.0, 0.005, 0.01])
