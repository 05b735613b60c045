"""The chain: the first level that answers counts, and the answer says which it was and why."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from core.errors import DeadlineExceeded, DeclarationError, InvalidInput, MillstreamError, Unavailable
from operators.fallback_chain import FallbackChain, Level

SECOND = timedelta(seconds=1)


def gives(value: str) -> Callable[[str], Awaitable[str]]:
    async def answer(asked: str) -> str:
        return f"{value} of {asked}"

    return answer


def raises(error: MillstreamError) -> Callable[[str], Awaitable[str]]:
    async def answer(asked: str) -> str:
        raise error

    return answer


async def hangs(asked: str) -> str:
    await asyncio.Event().wait()
    return asked


def chain(*levels: Callable[[str], Awaitable[str]], timeout: timedelta = SECOND) -> FallbackChain[str, str]:
    names = ("live", "previous_version", "cached", "static")
    return FallbackChain("forecast", [Level(n, a, timeout) for n, a in zip(names, levels, strict=False)])


async def test_the_first_level_answers_undegraded() -> None:
    fallen = await chain(gives("forecast"), hangs).answer("north")
    assert (fallen.value, fallen.level) == ("forecast of north", "live")
    assert not fallen.degraded
    assert fallen.warning is None


async def test_levels_that_fail_or_hang_are_passed_and_told() -> None:
    levels = (hangs, raises(Unavailable("connection refused")), gives("value"))
    fallen = await chain(*levels, timeout=timedelta(milliseconds=20)).answer("north")
    assert (fallen.value, fallen.level, fallen.degraded) == ("value of north", "cached", True)
    assert [(item.level, item.code) for item in fallen.passed] == [
        ("live", "deadline_exceeded"),
        ("previous_version", "unavailable"),
    ]
    assert fallen.warning == "answered by cached, because live did not: no answer within 20 ms"


async def test_where_none_answers_the_first_error_is_raised() -> None:
    with pytest.raises(DeadlineExceeded, match="within 20 ms"):
        await chain(hangs, raises(Unavailable("away")), timeout=timedelta(milliseconds=20)).answer("north")


async def test_a_wrong_question_is_no_reason_to_fall_back() -> None:
    with pytest.raises(InvalidInput):
        await chain(raises(InvalidInput("no such region")), gives("static")).answer("nowhere")


async def test_a_bug_is_not_hidden() -> None:
    async def broken(asked: str) -> str:
        raise KeyError(asked)

    with pytest.raises(KeyError):
        await chain(broken, gives("static")).answer("north")


async def test_a_caller_that_leaves_takes_the_whole_chain_along() -> None:
    task = asyncio.create_task(chain(hangs, gives("static")).answer("north"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "levels",
    [
        [],
        [Level("live", gives("a"), SECOND), Level("live", gives("b"), SECOND)],
        [Level("live", gives("a"), timedelta(0))],
    ],
)
def test_a_chain_that_makes_no_sense_is_refused(levels: list[Level[str, str]]) -> None:
    with pytest.raises(DeclarationError):
        FallbackChain("forecast", levels)
