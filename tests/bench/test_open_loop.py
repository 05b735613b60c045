"""A steady rate does not wait for answers, and what fails is told."""

import asyncio
import time

import pytest

from bench.open_loop import steadily


async def test_no_call_waits_for_the_answer_of_another() -> None:
    last = asyncio.Event()

    async def one(number: int, due: float) -> tuple[int, bool]:
        early = time.perf_counter() < due
        if number == 9:
            last.set()
        await last.wait()
        return number, early

    assert await steadily(one, rate=1_000.0, count=10) == [(number, False) for number in range(10)]


async def test_calls_are_due_at_the_rate() -> None:
    async def one(number: int, due: float) -> float:
        return due

    due = await steadily(one, rate=500.0, count=6)
    assert [later - due[0] for later in due] == pytest.approx([number / 500 for number in range(6)])


async def test_a_failure_comes_out() -> None:
    async def one(number: int, due: float) -> None:
        if number == 2:
            raise ValueError(str(number))

    with pytest.raises(ExceptionGroup) as caught:
        await steadily(one, rate=1_000.0, count=5)
    assert [str(error) for error in caught.value.exceptions] == ["2"]
