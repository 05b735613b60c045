"""Error rates over rolling windows against a list of all calls, and thresholds told once."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import ManualClock
from core.errors import DeclarationError
from operators.error_rates import FIVE_MINUTES, ONE_MINUTE, ErrorRates, Threshold

CALLS = st.lists(
    st.tuples(st.integers(0, 90), st.sampled_from(["generate", "infer"]), st.sampled_from([None, "a", "b"])),
    max_size=60,
)


@given(CALLS)
def test_rates_are_those_of_the_calls_within_the_window(calls: list[tuple[int, str, str | None]]) -> None:
    clock = ManualClock()
    rates, all_calls = ErrorRates(clock), list[tuple[int, str, str | None]]()
    for pause, operator, code in calls:
        clock.advance(timedelta(seconds=pause))
        rates.count(operator, code)
        all_calls.append((int(clock.elapsed), operator, code))
        for window in (ONE_MINUTE, FIVE_MINUTES):
            since = clock.elapsed - window.total_seconds()
            for name in ("generate", "infer"):
                within = [c for at, o, c in all_calls if o == name and at > since]
                failed = {c: within.count(c) for c in within if c is not None}
                assert rates.rates(name, window) == (len(within), failed)


def breached(rates: ErrorRates) -> list[str]:
    return [breach.text for breach in rates.breaches()]


def test_a_threshold_is_told_once_until_it_was_kept_again() -> None:
    clock = ManualClock()
    rates = ErrorRates(clock, [Threshold("generate", 0.05, code="timeout", calls=20)])
    rates.count("generate", None, calls=94)
    rates.count("generate", "timeout", calls=4)
    assert breached(rates) == [], "4 of 98"
    rates.count("generate", "timeout", calls=2)
    assert breached(rates) == ["6 of 100 calls of generate failed with timeout within 1 min, above 5.0%"]
    assert breached(rates) == []
    clock.advance(timedelta(minutes=2))
    rates.count("generate", None, calls=100)
    assert breached(rates) == []
    rates.count("generate", "timeout", calls=50)
    assert len(breached(rates)) == 1


def test_few_calls_are_no_rate_and_another_code_is_another_matter() -> None:
    rates = ErrorRates(
        ManualClock(),
        [Threshold("generate", 0.0, calls=20), Threshold("infer", 0.0, code="timeout", calls=1)],
    )
    rates.count("generate", "timeout", calls=19)
    rates.count("infer", "model_failed", calls=500)
    assert breached(rates) == []
    rates.count("generate", None)
    assert len(breached(rates)) == 1


@pytest.mark.parametrize(("rate", "minutes"), [(1.0, 1), (-0.1, 1), (0.5, 2), (float("nan"), 1)])
def test_thresholds_that_make_no_sense_are_refused(rate: float, minutes: int) -> None:
    with pytest.raises(DeclarationError):
        Threshold("generate", rate, timedelta(minutes=minutes))
