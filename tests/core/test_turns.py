"""Work in pieces: in order, all of it, and what came meanwhile is between them."""

import asyncio

import pytest

from core.turns import Turns


async def test_so_much_at_once_and_the_rest_in_the_next_turns_in_order() -> None:
    turns, done = Turns(most=3), list[object]()
    for number in range(8):
        turns.call(lambda number=number: done.append(number))  # type: ignore[misc]
    asyncio.get_running_loop().call_soon(done.append, "meanwhile")
    assert done == [0, 1, 2]
    await asyncio.sleep(0)
    assert done == [0, 1, 2, 3, 4, 5, "meanwhile"]
    turns.call(lambda: done.append("later"))
    await asyncio.sleep(0)
    assert done == [0, 1, 2, 3, 4, 5, "meanwhile", 6, 7, "later"]


async def test_every_turn_has_its_own_share() -> None:
    turns, done = Turns(most=2), list[int]()
    for number in range(6):
        turns.call(lambda number=number: done.append(number))  # type: ignore[misc]
        assert done[-1] == number  # none waits where few come in a turn
        await asyncio.sleep(0)
    turns.call(lambda: done.append(6))
    turns.call(lambda: done.append(7))
    assert done[-2:] == [6, 7]


async def test_work_that_raises_holds_nothing_up() -> None:
    turns, done, told = Turns(most=1), list[int](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def wrong() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        turns.call(wrong)
    turns.call(wrong)  # waits for the next turn
    turns.call(lambda: done.append(1))
    for _ in range(4):
        await asyncio.sleep(0)
    assert done == [1]
    assert [str(one) for one in told] == ["wrong"]
