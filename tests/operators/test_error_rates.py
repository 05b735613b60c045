"""Error rates over rolling windows against a list of all calls, and thresholds with hysteresis."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import ManualClock
from core.errors import DeclarationError
from core.telemetry.metrics import exposition
from operators.error_rates import FIVE_MINUTES, ONE_MINUTE, ErrorRates, Threshold

CALLS = st.lists(
    st.tuples(
        st.integers(0, 90),
        st.sampled_from(["generate", "infer"]),
        st.sampled_from([None, "a", "b"]),
        st.booleans(),
        st.integers(1, 5),
    ),
    max_size=60,
)


@given(CALLS)
def test_rates_are_those_of_the_calls_within_the_window(
    calls: list[tuple[int, str, str | None, bool, int]],
) -> None:
    clock = ManualClock()
    rates, all_calls = ErrorRates("p", clock), list[tuple[int, str, str | None, bool]]()
    for pause, operator, code, refused, count in calls:
        clock.advance(timedelta(seconds=pause))
        rates.count(operator, code, count, refused=refused)
        all_calls += [(int(clock.elapsed), operator, code, refused)] * count
        for window in (ONE_MINUTE, FIVE_MINUTES):
            since = clock.elapsed - window.total_seconds()
            for name in ("generate", "infer"):
                within = [(c, r) for at, o, c, r in all_calls if o == name and at > since]
                found = rates.counted(name, window)
                assert found.calls == len(within)
                for told, theirs in ((found.failed, False), (found.refused, True)):
                    wrong = [c for c, r in within if c is not None and r == theirs]
                    assert told == {c: wrong.count(c) for c in wrong}
                ours = [c for c, r in within if c is None or not r]
                assert found.of(None) == (len(ours), len([c for c in ours if c is not None]))
                assert found.of("a") == (len(within), len([c for c, _ in within if c == "a"]))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=40),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from([0.0, 0.05, 0.1]),
)
def test_passed_is_what_a_reading_of_the_rule_says(
    steps: list[tuple[int, int]], rate: float, cleared: float
) -> None:
    """After every step of good and failed calls; an oracle of three plain cases."""
    cleared = min(rate, cleared)
    clock = ManualClock()
    rates = ErrorRates("p", clock, [Threshold("infer", rate, calls=20, cleared=cleared)])
    history: list[tuple[float, int, int]] = []
    passed = False
    for good, bad in steps:
        clock.advance(timedelta(seconds=17))
        rates.count("infer", None, good)
        rates.count("infer", "x", bad)
        history.append((clock.elapsed, good, bad))
        recent = [(g, b) for at, g, b in history if at > clock.elapsed - 60]
        calls, failed = sum(g + b for g, b in recent), sum(b for _, b in recent)
        if calls >= 20 and failed / calls > rate:
            passed = True
        elif failed == 0 or (calls >= 20 and failed / calls <= cleared):
            passed = False
        (standing,) = rates.standings()
        assert (standing.passed, standing.calls, standing.failed) == (passed, calls, failed)


def told(rates: ErrorRates) -> list[str]:
    return [standing.text for standing in rates.standings() if standing.passed]


def test_a_threshold_says_what_was_counted_and_stays_passed_until_it_is_well_below() -> None:
    clock = ManualClock()
    rates = ErrorRates("p", clock, [Threshold("generate", 0.05, code="timeout", calls=20)])
    rates.count("generate", None, calls=94)
    rates.count("generate", "timeout", calls=4)
    assert told(rates) == [], "4 of 98"
    rates.count("generate", "timeout", calls=2)
    text = "6 of 100 calls of generate failed with timeout within 1 min, above 5.0%"
    assert told(rates) == [text]
    rates.count("generate", None, calls=100)
    assert len(told(rates)) == 1, "6 of 200 is below 5 %, but not at half of it"
    rates.count("generate", None, calls=40)
    (standing,) = rates.standings()
    assert standing.text.endswith("within 1 min, not above 2.5% any more")


def test_few_calls_are_no_rate_and_another_code_is_another_matter() -> None:
    rates = ErrorRates(
        "p",
        ManualClock(),
        [Threshold("generate", 0.0, calls=20), Threshold("infer", 0.0, code="timeout", calls=1)],
    )
    rates.count("generate", "timeout", calls=19)
    rates.count("infer", "model_failed", calls=500)
    assert told(rates) == []
    rates.count("generate", None)
    assert len(told(rates)) == 1


def test_the_callers_faults_count_by_their_code_but_not_as_any_error() -> None:
    any_error = Threshold("answer", 0.5, calls=20)
    by_code = Threshold("answer", 0.5, calls=20, code="invalid_record")
    rates = ErrorRates("p", ManualClock(), [any_error, by_code])
    rates.count("answer", "invalid_record", calls=90, refused=True)
    rates.count("answer", None, calls=30)
    assert [(s.threshold, s.calls) for s in rates.standings() if s.passed] == [(by_code, 120)]
    rates.count("answer", "model_unavailable", calls=31)
    assert [(s.calls, s.failed) for s in rates.standings() if s.passed] == [(61, 31), (151, 90)]


def test_the_rates_of_both_windows_are_told_to_prometheus_and_fall_to_zero() -> None:
    clock = ManualClock()
    rates = ErrorRates("rates", clock)

    def shown() -> dict[str, float]:
        rates.standings()
        lines = [line for line in exposition().decode().splitlines() if 'pipeline="rates"' in line]
        assert all('operator="infer",pipeline="rates"' in line and 'code="bad"' in line for line in lines)
        return {line.partition('window="')[2].partition('"')[0]: float(line.split()[-1]) for line in lines}

    rates.count("infer", None, 75)
    rates.count("infer", "bad", 25)
    assert shown() == {"60s": 0.25, "300s": 0.25}
    clock.advance(timedelta(minutes=2))
    rates.count("infer", None, 100)
    assert shown() == {"60s": 0.0, "300s": 0.125}
    clock.advance(timedelta(minutes=6))
    assert shown() == {"60s": 0.0, "300s": 0.0}


@pytest.mark.parametrize(
    ("rate", "minutes", "cleared"),
    [(1.0, 1, None), (-0.1, 1, None), (0.5, 2, None), (float("nan"), 1, None), (0.5, 1, 0.6), (0.5, 1, -0.1)],
)
def test_thresholds_that_make_no_sense_are_refused(rate: float, minutes: int, cleared: float | None) -> None:
    with pytest.raises(DeclarationError):
        Threshold("generate", rate, timedelta(minutes=minutes), cleared=cleared)
