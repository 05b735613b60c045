"""A loop that was held up has not heard yet; one that was not has waited long enough."""

import asyncio
import socket
import time

import pytest

from core.patience import Patience

pytestmark = pytest.mark.parametrize("timeout_s", [0.2])


async def answers(there: asyncio.Event) -> str:
    await there.wait()
    return "an answer"


async def test_an_answer_in_time_is_taken(timeout_s: float) -> None:
    there = asyncio.Event()
    asyncio.get_running_loop().call_soon(there.set)
    async with Patience(timeout_s):
        assert await answers(there) == "an answer"
    await asyncio.sleep(timeout_s * 1.5)  # nothing is cancelled afterwards


async def test_no_answer_is_a_timeout(timeout_s: float) -> None:
    with pytest.raises(TimeoutError):
        async with Patience(timeout_s):
            await answers(asyncio.Event())


async def test_what_came_while_the_loop_was_held_up_is_heard(timeout_s: float) -> None:
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)

        def answered_while_held_up() -> None:
            there.send(b"!")
            time.sleep(timeout_s * 2)

        loop.call_soon(answered_while_held_up)
        async with Patience(timeout_s):
            assert await loop.sock_recv(here, 1) == b"!"


async def test_what_comes_just_after_is_heard_too(timeout_s: float) -> None:
    """What has to be handed on once or twice in this process before it is an answer."""
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.call_soon(time.sleep, timeout_s * 2)
    loop.call_later(timeout_s * 2.1, there.set)
    async with Patience(timeout_s):
        assert await answers(there) == "an answer"


async def test_who_says_nothing_is_given_up_after_a_hold_up_too(timeout_s: float) -> None:
    async def waiting() -> None:
        async with Patience(timeout_s):
            time.sleep(timeout_s * 2)
            await answers(asyncio.Event())

    with pytest.raises(TimeoutError):
        await waiting()


async def test_a_cancelled_wait_is_cancelled(timeout_s: float) -> None:
    async def waiting() -> None:
        async with Patience(timeout_s):
            await answers(asyncio.Event())

    task = asyncio.ensure_future(waiting())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
