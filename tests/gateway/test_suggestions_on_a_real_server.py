"""Suggestions by the small model: they go on where the text ends, and a keystroke costs few tokens."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from core.clock import SystemClock
from gateway.client import GatewayClient
from gateway.push.frames import Suggestion
from gateway.stream_client import Stream
from models.llm.client import HttpLanguageServer
from models.llm.connections import Pooling
from models.llm.servers import Unbroken
from operators.answer_statistics import RollingStatistics
from operators.asking import Answer, Emit, Question
from operators.generate import Generate
from operators.generate_answer import Generated
from operators.generate_request import Limits
from operators.server_pool import Member, ServerPool
from tests.gateway.streaming import KEY, streaming
from tests.llm_real import SLOTS, RealServer, small_model

__all__ = ["small_model"]
pytestmark = pytest.mark.services
TYPED = "Dear Ada, thank you for your letter of Monday. We are sorry to h"
KEYSTROKES_FROM = 24
MOST_TOKENS = 4
"""Those of the word that is being typed. Of the user's turn, which the template closes, it is 7 at least."""


class Recording(Generate):
    """`evaluated`: tokens of each question that the server had not read before."""

    evaluated: list[int]

    async def answer(self, question: Question, emit: Emit) -> Answer:
        answer = await super().answer(question, emit)
        usage = msgspec.json.decode(answer.body, type=Generated).usage
        self.evaluated.append(usage.prompt_tokens - usage.cached_tokens)
        return answer


@pytest.fixture
async def generate(small_model: RealServer) -> AsyncIterator[Recording]:
    clock = SystemClock()
    server = HttpLanguageServer("r", small_model.model, small_model.url, pooling=Pooling(silence_s=60))
    pool = ServerPool([Member(server, slots=SLOTS, breaker=Unbroken(), clock=clock)], queue=4, clock=clock)
    await pool.start()
    made = Recording(pool, RollingStatistics(clock), limits=Limits(), clock=clock)
    made.evaluated = []
    yield made
    await server.close()


@pytest.fixture
async def stream(generate: Recording) -> AsyncIterator[Stream]:
    async with (
        streaming(generate=generate) as served,
        GatewayClient(served.url, KEY) as client,
        client.stream() as made,
    ):
        yield made


async def suggested(stream: Stream, text: str, tokens: int) -> Suggestion:
    *_, last = [one async for one in stream.suggest(text, max_tokens=tokens)]
    return last


async def test_the_text_goes_on_where_it_ends(stream: Stream) -> None:
    assert (await suggested(stream, "The capital of France is", 4)).partial.startswith(" Paris")
    assert (await suggested(stream, "I live in Berlin, the capital of ", 2)).partial.startswith("Germany")
    assert (await suggested(stream, "1, 2, 3, 4,", 4)).partial.startswith(" 5,")


async def test_a_keystroke_costs_the_tokens_of_its_word(stream: Stream, generate: Recording) -> None:
    for end in range(KEYSTROKES_FROM, len(TYPED) + 1):
        await suggested(stream, TYPED[:end], 1)
    first, *later = generate.evaluated
    assert first > MOST_TOKENS
    assert len(later) > 20  # the others were typed along with a suggestion
    assert max(later) <= MOST_TOKENS
