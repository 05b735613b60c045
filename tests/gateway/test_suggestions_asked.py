"""How a model is asked to go on: what was typed is the beginning of its answer, if its server takes one."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from core.clock import ManualClock
from core.errors import InvalidInput
from gateway.client import GatewayClient
from gateway.limits import TokenLimits
from gateway.push.frames import Suggestion
from gateway.push.suggestions import IN_WORDS_FOR, INSTRUCTION
from gateway.stream_client import Stream
from tests.gateway.streaming import KEY, only, streaming
from tests.operators.generating import World, words, world


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world("fake") as made:
        yield made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
async def stream(w: World, clock: ManualClock) -> AsyncIterator[Stream]:
    async with (
        streaming(generate=w.generate, clock=clock) as served,
        GatewayClient(served.url, KEY) as client,
        client.stream() as made,
    ):
        yield made


async def suggested(stream: Stream, text: str) -> Suggestion:
    *partial, last = [one async for one in stream.suggest(text, max_tokens=6)]
    assert all(not one.final and last.partial.startswith(one.partial) for one in partial)
    return last


def turns(w: World) -> list[list[tuple[str, str]]]:
    """Roles and texts of each call."""
    return [[(one["role"], one["content"]) for one in call["messages"]] for call in w.fakes[0].seen]  # type: ignore[attr-defined]


async def test_what_was_typed_is_the_beginning_of_the_answer(w: World, stream: Stream) -> None:
    assert (await suggested(stream, "w0 w1")).partial == words(6, after=2)
    (asked,) = turns(w)
    assert asked[-1] == ("assistant", "w0 w1")
    (call,) = w.fakes[0].seen
    assert (call["continue_final_message"], call["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize("space", [" ", "\n", " \n\t "])
async def test_a_space_that_was_typed_is_not_suggested_again(w: World, stream: Stream, space: str) -> None:
    found = await suggested(stream, f"w0 w1{space}")
    assert found.partial == words(6, after=2).lstrip()
    assert turns(w)[0][-1] == ("assistant", "w0 w1")
    along = await suggested(stream, f"w0 w1{space}w2 ")
    assert (along.source, along.partial) == ("cache", words(5, after=3).lstrip())


async def test_a_server_that_takes_no_beginning_is_asked_in_words(
    w: World, stream: Stream, clock: ManualClock
) -> None:
    w.fakes[0].continues = False
    assert (await suggested(stream, "Dear ")).partial == words(6)
    in_words = [("system", INSTRUCTION), ("user", "Dear ")]
    assert turns(w)[1:] == [in_words]
    assert (await suggested(stream, "Dear sir")).partial == words(6)
    assert [asked[-1][0] for asked in turns(w)] == ["assistant", "user", "user"]

    w.fakes[0].continues = True  # another server, say
    clock.advance(IN_WORDS_FOR)
    assert (await suggested(stream, "Hello")).partial == words(6, after=1)
    assert [asked[-1][0] for asked in turns(w)][3:] == ["assistant"]


async def test_what_is_wrong_otherwise_is_told_and_asked_once(w: World, stream: Stream) -> None:
    w.fakes[0].script = ["error_in_pieces"]  # that it exceeds the model's context
    with pytest.raises(InvalidInput) as refused:
        await suggested(stream, "w " * 400)
    assert "too long" in str(refused.value)
    assert len(w.fakes[0].seen) == 1
    assert (await suggested(stream, "w0")).partial == words(6, after=1)
    assert turns(w)[-1][-1] == ("assistant", "w0")


async def test_a_model_that_refuses_both_is_not_taken_for_one_that_takes_no_beginning(
    w: World, stream: Stream
) -> None:
    w.fakes[0].script = ["status_400", "status_400"]
    with pytest.raises(InvalidInput):
        await suggested(stream, "nonsense")
    assert (await suggested(stream, "w0")).partial == words(6, after=1)


async def test_being_asked_in_words_takes_no_more_tokens(w: World) -> None:
    w.fakes[0].continues = False
    async with (
        streaming(generate=w.generate, tokens=TokenLimits(only("tokens", 6))) as served,
        GatewayClient(served.url, KEY) as client,
        client.stream() as stream,
    ):
        assert (await suggested(stream, "Dear")).partial == words(6)
