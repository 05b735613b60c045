"""Load at a steady rate: each call is made when it is due, whether or not earlier ones have returned, so that
a slow answer does not slow the load down."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")


async def steadily(
    one: Callable[[int, float], Awaitable[Answer]], *, rate: float, count: int
) -> list[Answer]:
    """What `one(number, due)` gives for each number from 0; `due` by `time.perf_counter`, in seconds.

    The first failure calls off the rest and comes out in an ExceptionGroup.
    """

    async def made(number: int, due: float) -> Answer:
        return await one(number, due)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(count):
            due = start + number / rate
            await asyncio.sleep(max(due - time.perf_counter(), 0.0))
            tasks.append(group.create_task(made(number, due)))
    return [task.result() for task in tasks]
