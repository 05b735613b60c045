"""What a request asks of the caches."""

import random
from datetime import timedelta

import pytest

from gateway.asking.cache_control import CacheControl, cache_control_of, cache_status


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, CacheControl()),
        ("", CacheControl()),
        ("public, stale-while-revalidate=30", CacheControl()),
        ("no-cache", CacheControl(no_cache=True)),
        (" No-Store ,ONLY-IF-CACHED", CacheControl(no_store=True, only_if_cached=True)),
        ("max-age=3", CacheControl(max_age_s=3)),
        ('max-age="3"', CacheControl(max_age_s=3)),
        ("max-age=0003", CacheControl(max_age_s=3)),
        ("max-age", CacheControl(max_age_s=0)),
        ("max-age=-1", CacheControl(max_age_s=0)),
        ("max-age=1.5", CacheControl(max_age_s=0)),
        ("max-age=\u0663", CacheControl(max_age_s=0)),
        ("min-fresh=7,max-age=9", CacheControl(max_age_s=9, min_fresh_s=7)),
        ("min-fresh=many", CacheControl(min_fresh_s=2**31)),
        ('ext="no-cache, max-age=1", max-age=4', CacheControl(max_age_s=4)),
        ("max-age=9, max-age=4, max-age=5", CacheControl(max_age_s=4)),
        ("x-no-cache", CacheControl()),
        (",,;=;,", CacheControl()),
    ],
)
def test_directives_are_read(given: str | None, expected: CacheControl) -> None:
    assert cache_control_of(given) == expected


@pytest.mark.parametrize("seed", range(50))
def test_any_text_is_read(seed: int) -> None:
    dice = random.Random(seed)
    text = "".join(dice.choice('max-age=1,"\\ no-store\x00\u00e9;') for _ in range(dice.randrange(200)))
    cache_control_of(text)


def test_an_answer_must_be_young_and_must_last() -> None:
    def left(**asked: int) -> float:
        return CacheControl(**asked).least(timedelta(seconds=60)).total_seconds()  # type: ignore[arg-type]

    assert [left(), left(max_age_s=60), left(max_age_s=10), left(max_age_s=0)] == [0, 0, 50, 60]
    assert [left(min_fresh_s=20), left(max_age_s=50, min_fresh_s=20), left(max_age_s=10**9)] == [20, 20, 0]


def test_what_the_caches_did_is_said_from_the_farthest_on() -> None:
    left = timedelta(seconds=7.9)
    assert cache_status("memory", left) == "memory; hit; ttl=7"
    assert cache_status("redis", left) == "redis; hit; ttl=7, memory; fwd=miss; stored"
    assert cache_status("collapsed", timedelta(0)) == "memory; fwd=miss; collapsed"
    assert cache_status("miss", left) == "redis; fwd=miss; stored, memory; fwd=miss; stored"
    assert cache_status("miss", timedelta(0)) == "redis; fwd=miss, memory; fwd=miss"
    assert cache_status("request", left) == "memory; fwd=request; stored"
    assert cache_status("bypass", left) == "memory; fwd=bypass"
