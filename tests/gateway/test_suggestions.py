"""How texts went on: the cache of prefixes, against a search through everything that was kept."""

from datetime import timedelta
from random import Random

import pytest

from core.clock import ManualClock
from gateway.push.suggestions import LONGEST_PROMPT, LONGEST_SUGGESTION, PrefixCache
from tests.gateway.samples import NOW


def a_cache(entries: int = 1000) -> tuple[PrefixCache, ManualClock]:
    clock = ManualClock(NOW)
    return PrefixCache(entries=entries, ttl=timedelta(seconds=60), clock=clock), clock


def test_typing_along_a_suggestion_gives_the_rest_of_it() -> None:
    cache, _ = a_cache()
    cache.put("acme", "Dear si", "r or madam")
    assert [
        cache.find("acme", text) for text in ("Dear si", "Dear sir", "Dear sir or", "Dear sir or madam")
    ] == [
        "r or madam",
        " or madam",
        " madam",
        None,
    ]
    assert [cache.find("acme", text) for text in ("Dear s", "Dear sie", "dear si", "")] == [None] * 4


def test_another_scope_sees_nothing() -> None:
    cache, _ = a_cache()
    cache.put("acme", "Dear si", "r")
    assert cache.find("other", "Dear si") is None


def test_what_is_old_or_too_long_or_says_nothing_is_not_kept() -> None:
    cache, clock = a_cache()
    cache.put("acme", "a", "b")
    clock.advance(timedelta(seconds=60))
    assert cache.find("acme", "a") is None
    cache.put("acme", "x" * (LONGEST_PROMPT + 1), "b")
    cache.put("acme", "c", "d" * (LONGEST_SUGGESTION + 1))
    cache.put("acme", "e", "")
    assert [cache.find("acme", text) for text in ("x" * (LONGEST_PROMPT + 1), "c", "e")] == [None] * 3


def test_the_oldest_leave() -> None:
    cache, _ = a_cache(entries=3)
    for text in "abcd":
        cache.put("acme", text, "!")
    assert [cache.find("acme", text) for text in "abcd"] == [None, "!", "!", "!"]
    assert len(cache) == 3


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_prefix_that_fits_answers(seed: int) -> None:
    random, (cache, _) = Random(seed), a_cache()
    kept: dict[str, str] = {}
    for _ in range(60):
        prompt, continuation = _text(random, 4), _text(random, 5)
        cache.put("acme", prompt, continuation)
        if continuation:
            kept[prompt] = continuation
    for _ in range(300):
        typed = _text(random, 8)
        fits = [
            (len(prompt), (prompt + continuation)[len(typed) :])
            for prompt, continuation in kept.items()
            if prompt and typed.startswith(prompt) and (prompt + continuation).startswith(typed)
            and len(prompt + continuation) > len(typed)
        ]  # fmt: skip
        assert cache.find("acme", typed) == (max(fits)[1] if fits else None)


def _text(random: Random, longest: int) -> str:
    return "".join(random.choice("ab") for _ in range(random.randint(0, longest)))
