"""Two real servers with the small model: one is killed in mid-stream; one is swapped for the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.clock import SystemClock
from models.llm.client import HttpLanguageServer
from models.llm.connections import Pooling
from models.llm.servers import Unbroken
from operators.answer_statistics import RollingStatistics
from operators.generate import Generate
from operators.generate_request import Limits
from operators.server_pool import Member, ServerPool, State
from tests.llm_real import SLOTS, RealServer, real_server, small_model
from tests.operators.generating import Heard, asked

__all__ = ["small_model"]
pytestmark = pytest.mark.services
PROMPT = "Tell me about rivers."


@pytest.fixture
def second(tmp_path: Path) -> object:
    with real_server(tmp_path / "second.log") as server:
        yield server


async def generator(*servers: tuple[str, str]) -> AsyncIterator[Generate]:
    """(model, URL) of each."""
    clock = SystemClock()
    members = [
        Member(
            HttpLanguageServer(f"r{n}", model, url, pooling=Pooling(silence_s=60), floor=0.1),
            slots=SLOTS,
            breaker=Unbroken(),
            clock=clock,
        )
        for n, (model, url) in enumerate(servers)
    ]
    pool = ServerPool(members, queue=16, clock=clock)
    await pool.start()
    assert members[0].state is State.ACTIVE
    yield Generate(pool, RollingStatistics(clock), limits=Limits(), clock=clock)
    for member in members:
        await member.server.close()


async def test_a_server_killed_in_mid_stream_is_followed_by_the_other(
    small_model: RealServer, second: RealServer
) -> None:
    model = small_model.model
    async for generate in generator((model, second.url), (model, small_model.url)):
        heard, told = Heard(), asyncio.Event()

        async def emit(piece: bytes, heard: Heard = heard, told: asyncio.Event = told) -> None:
            await heard(piece)
            if len(heard.pieces) >= 5:
                told.set()

        question = asked(PROMPT, max_tokens=60, within_s=120)
        task = asyncio.create_task(generate.answer(question, emit))
        await asyncio.wait_for(told.wait(), 60)
        second.process.kill()
        answer = json.loads((await asyncio.wait_for(task, 120)).body)
        assert heard.kinds == ["continued"]
        assert answer["server"] == "r1"
        assert answer["text"] == heard.text
        assert answer["degraded"]
        assert len(answer["text"].split()) > 15
        assert answer["finish_reason"] in ("stop", "length")
        again = json.loads((await generate.answer(asked(PROMPT, id="q2", within_s=120), heard)).body)
        assert again["server"] == "r1"


async def test_a_swap_between_real_servers_loses_nothing(small_model: RealServer, second: RealServer) -> None:
    # llama.cpp answers under any name of a model, so that one set of weights can stand for two
    async for generate in generator(("one", small_model.url), ("two", second.url)):
        tasks = [
            asyncio.create_task(
                generate.answer(asked(f"Count to {n}.", id=f"q{n}", max_tokens=12, within_s=120), Heard())
            )
            for n in range(6)
        ]
        await asyncio.sleep(0.2)
        assert await generate.pool.healthy("two", 3)
        generate.pool.activate("two")
        answers = [json.loads(answer.body) for answer in await asyncio.gather(*tasks)]
        assert all(answer["text"].strip() for answer in answers)
        assert {answer["model"] for answer in answers} <= {"one", "two"}
        after = json.loads((await generate.answer(asked("Hello.", within_s=120), Heard())).body)
        assert after["model"] == "two"
