"""Prophet, for real: it finds a weekly pattern, gives the same again, and says nothing besides."""

import subprocess
import sys

import numpy as np

from jobs.training.forecasting.prophet import ProphetTask, forecast

DAY = 86_400_000
WEEK = np.array([40.0, 42.0, 44.0, 46.0, 60.0, 80.0, 70.0])
TASK = ProphetTask(np.tile(WEEK, 20), known_until=20 * 7 * DAY, step=DAY, wanted=14, seed=1)


def test_it_continues_a_weekly_pattern_from_what_is_known() -> None:
    found = forecast(TASK)
    assert np.abs(found / np.tile(WEEK, 2) - 1).max() < 0.05
    assert np.array_equal(found, forecast(TASK))


def test_it_is_never_below_zero() -> None:
    falling = np.maximum(np.linspace(50, -1, 140), 0.0)
    assert forecast(ProphetTask(falling, 140 * DAY, DAY, 60, 1)).min() == 0.0


def test_it_is_quiet() -> None:
    code = "from tests.jobs.training.forecasting.test_prophet import TASK, forecast; forecast(TASK)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_series_that_has_just_begun_is_no_error() -> None:
    """A region that nobody had booked in when Prophet was fitted."""
    assert forecast(ProphetTask(np.array([]), 0, DAY, 3, 1)).tolist() == [0.0, 0.0, 0.0]
    assert forecast(ProphetTask(np.array([4.0]), DAY, DAY, 2, 1)).tolist() == [4.0, 4.0]
    assert np.isfinite(forecast(ProphetTask(np.array([4.0, 5.0]), 2 * DAY, DAY, 2, 1))).all()
