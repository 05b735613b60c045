"""Work for a client ends when the client leaves, and nothing else ends with it."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.asking.presence import unless_gone
from gateway.exchange import Request


class Client:
    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.watched = False

    async def gone(self) -> None:
        self.watched = True
        await self.leaves.wait()

    @property
    def request(self) -> Request:
        async def body(limit: int) -> bytes:
            return b""

        return Request("POST", "/", {}, body, "r", gone=self.gone)


class Work:
    def __init__(self) -> None:
        self.may_end, self.cancelled = asyncio.Event(), False

    async def run(self) -> str:
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "done"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_who_stays_has_what_the_work_came_to() -> None:
    client, work = Client(), Work()
    asking = asyncio.create_task(unless_gone(client.request, work.run()))
    await until(lambda: client.watched)
    work.may_end.set()
    assert await asking == "done"


async def test_the_work_of_who_leaves_is_cancelled_also_where_that_was_at_once() -> None:
    for at_once in (True, False):
        client, work = Client(), Work()
        if at_once:
            client.leaves.set()
        asking = asyncio.create_task(unless_gone(client.request, work.run()))
        await until(lambda: client.watched)  # noqa: B023
        client.leaves.set()
        assert await asking is None
        assert work.cancelled


async def test_what_the_work_raises_is_raised() -> None:
    async def fails() -> str:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await unless_gone(Client().request, fails())


async def test_who_is_cancelled_by_somebody_else_is_cancelled() -> None:
    client, work = Client(), Work()
    asking = asyncio.create_task(unless_gone(client.request, work.run()))
    await until(lambda: client.watched)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert work.cancelled


async def test_one_task_is_cancelled_for_one_client_only() -> None:
    """A connection's task goes on to its next request, and is no more cancelled than before."""
    quick, slow, leaves = Client(), Client(), Client()
    work = Work()

    async def one_after_the_other() -> list[str | None]:
        work.may_end.set()
        come = [await unless_gone(quick.request, work.run())]
        work.may_end.clear()
        come.append(await unless_gone(slow.request, work.run()))
        quick.leaves.set()
        slow.leaves.set()
        work.may_end.clear()
        come.append(await unless_gone(leaves.request, work.run()))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)
        return come

    asking = asyncio.create_task(one_after_the_other())
    await until(lambda: slow.watched)
    work.may_end.set()
    await until(lambda: leaves.watched)
    assert not asking.done()
    leaves.leaves.set()
    assert await asking == ["done", "done", None]
    assert not quick.watched
