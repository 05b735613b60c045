"""Rolling figures against a list of everything that happened."""

import random
from datetime import timedelta

import pytest

from core.clock import ManualClock
from core.telemetry.metrics import REGISTRY
from operators.answer_statistics import RollingStatistics, Timings, merged


def made(dice: random.Random) -> Timings:
    return Timings(
        queue_wait_ms=dice.random() * 50,
        slot_wait_ms=dice.random() * 5,
        first_token_ms=dice.random() * 100,
        total_ms=100 + dice.random() * 900,
        tokens=dice.randint(1, 50),
        tokens_per_s=dice.choice([None, 1.0]),
        generation_ms=1 + dice.random() * 500,
        cache_hit=dice.random() < 0.2,
        batch_size=dice.randint(1, 4),
    )


def test_windows_hold_what_ended_within_them() -> None:
    clock, dice = ManualClock(), random.Random(3)
    statistics = RollingStatistics(clock)
    happened: list[tuple[int, Timings | None]] = []
    for _ in range(2000):
        clock.advance(timedelta(seconds=dice.random()))
        at = int(clock.monotonic())
        if dice.random() < 0.1:
            statistics.failed("server_lost")
            happened.append((at, None))
        else:
            timings = made(dice)
            statistics.answered(timings)
            happened.append((at, timings))
        if dice.random() < 0.02:
            for seconds in (60, 300):
                check(statistics, happened, seconds, at)


def test_tokens_are_counted_where_a_server_made_them() -> None:
    def tokens() -> float:
        return REGISTRY.get_sample_value("millstream_llm_tokens_total") or 0

    def answers() -> float:
        return REGISTRY.get_sample_value("millstream_llm_tokens_per_second_count") or 0

    statistics, before = RollingStatistics(ManualClock()), (tokens(), answers())
    statistics.answered(Timings(tokens=12, tokens_per_s=20.0))
    statistics.answered(Timings(tokens=1))
    statistics.answered(Timings(tokens=40, tokens_per_s=20.0, cache_hit=True))
    assert (tokens() - before[0], answers() - before[1]) == (13, 1)


def check(
    statistics: RollingStatistics, happened: list[tuple[int, Timings | None]], seconds: int, now: int
) -> None:
    inside = [one for at, one in happened if at > now - seconds]
    answered = [one for one in inside if one is not None]
    asked = [one for one in answered if not one.cache_hit]
    window = statistics.window(seconds)
    assert (window.answers, window.failures) == (len(answered), len(inside) - len(answered))
    assert window.success_rate == pytest.approx(len(answered) / len(inside))
    assert window.average_batch_size == pytest.approx(sum(t.batch_size for t in asked) / len(asked))
    rated = [t for t in asked if t.tokens_per_s is not None]
    seconds_generating = sum(t.generation_ms for t in rated) / 1000
    assert window.tokens_per_s == pytest.approx(sum(t.tokens - 1 for t in rated) / seconds_generating)
    assert window.throughput_tokens_per_s == pytest.approx(sum(t.tokens for t in asked) / seconds)
    waited = sum(t.queue_wait_ms + t.slot_wait_ms for t in asked)
    total = sum(t.total_ms for t in answered)
    assert window.queue_efficiency == pytest.approx(1 - waited / total)


def test_without_anything_there_is_nothing_to_tell() -> None:
    window = RollingStatistics(ManualClock()).window(60)
    assert (window.answers, window.success_rate, window.tokens_per_s) == (0, None, None)
    assert merged([]).success_rate is None


def test_processes_together_are_as_one() -> None:
    dice = random.Random(4)
    clock = ManualClock()
    parts = [RollingStatistics(clock) for _ in range(3)]
    whole = RollingStatistics(clock)
    for _ in range(500):
        timings = made(dice)
        timings = Timings(
            batch_size=timings.batch_size, total_ms=timings.total_ms, cache_hit=timings.cache_hit,
            tokens=11, tokens_per_s=5.0, generation_ms=2000.0,
        )  # fmt: skip
        dice.choice(parts).answered(timings)
        whole.answered(timings)
    parts[0].failed("x")
    whole.failed("x")
    one, all_of_them = whole.window(60), merged([part.window(60) for part in parts])
    for name in ("answers", "failures", "cache_hits"):
        assert getattr(one, name) == getattr(all_of_them, name)
    for name in ("success_rate", "average_batch_size", "tokens_per_s", "throughput_tokens_per_s", "total_ms"):
        assert getattr(all_of_them, name) == pytest.approx(getattr(one, name))
