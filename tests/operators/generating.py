"""What the tests of generating share: pools over fakes, questions, and a listener of pieces."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from core.clock import Clock, SystemClock
from models.llm.client import HttpLanguageServer
from models.llm.connections import Pooling
from models.llm.servers import Unbroken
from operators.answer_statistics import RollingStatistics
from operators.asking import Answer, Question
from operators.cache import Keeping, ResponseCache, SharedCache
from operators.generate import PIPELINE, Generate, Kept, Levels
from operators.generate_ports import CallBreaker, PaidCalls
from operators.generate_request import Limits
from operators.server_pool import Member, ServerPool
from tests.llm_fake import FakeServer, fake_server

SILENCE_S = 0.3
"""Of a server that a test lets hang. The others may take their time: a busy machine does."""
PATIENT_S = 60.0


class Heard:
    """Pieces as they were emitted."""

    def __init__(self) -> None:
        self.pieces: list[dict[str, Any]] = []

    async def __call__(self, piece: bytes) -> None:
        for line in piece.splitlines():
            self.pieces.append(json.loads(line))

    @property
    def text(self) -> str:
        """What a reader holds at the end: a restart voids what came before it."""
        said = ""
        for piece in self.pieces:
            said = "" if "restarted" in piece else said + piece.get("text", "")
        return said

    @property
    def kinds(self) -> list[str]:
        return [name for piece in self.pieces for name in piece if name not in ("text", "model")]


def kept_in(clock: Clock, shared: SharedCache | None) -> Kept:
    return Kept(
        ResponseCache("answers", Keeping(), clock=clock, shared=shared),
        ResponseCache("earlier", Keeping(), clock=clock, shared=shared),
    )


class World:
    """A generator over fakes; `members[i]` is the client of `fakes[i]`."""

    def __init__(
        self,
        fakes: Sequence[FakeServer],
        *,
        slots: int = 2,
        queue: int = 4,
        silences_s: Sequence[float] = (),
        floor: float = 0.01,
        cached: bool = False,
        shared: SharedCache | None = None,
        levels: Levels | None = None,
        ledger: PaidCalls | None = None,
        breaker: CallBreaker | None = None,
    ) -> None:
        self.fakes = list(fakes)
        self.clock = SystemClock()
        self.members = [
            Member(
                HttpLanguageServer(
                    f"s{number}",
                    fake.model,
                    fake.url,
                    pooling=Pooling(
                        silence_s=silences_s[number] if number < len(silences_s) else PATIENT_S,
                        wait_s=PATIENT_S,
                        kept=ledger is None,
                        connect_s=PATIENT_S,
                    ),
                    floor=floor,
                ),
                slots=slots,
                breaker=breaker or Unbroken(),
                clock=self.clock,
            )
            for number, fake in enumerate(fakes)
        ]
        self.pool = ServerPool(self.members, queue=queue, clock=self.clock)
        self.statistics = RollingStatistics(self.clock)
        self.generate = Generate(
            self.pool,
            self.statistics,
            limits=Limits(prompt_bytes=1000, tokens=400, default_tokens=8),
            clock=self.clock,
            kept=kept_in(self.clock, shared) if cached else None,
            ledger=ledger,
            levels=levels,
        )

    async def ask(self, question: Question | None = None, heard: Heard | None = None) -> Answer:
        return await self.generate.answer(question or asked(), heard or Heard())

    async def close(self) -> None:
        await self.generate.close()
        for member in self.members:
            await member.server.close()


def asked(
    prompt: str = "Tell me.",
    *,
    id: str = "q1",
    tenant: str = "acme",
    within_s: float = 120.0,
    streamed: bool = True,
    **more: Any,
) -> Question:
    body = json.dumps({"prompt": prompt, "max_tokens": 10, **more}).encode()
    return question_of(body, id=id, tenant=tenant, within_s=within_s, streamed=streamed)


def question_of(
    body: bytes, *, id: str = "q1", tenant: str = "acme", within_s: float = 120.0, streamed: bool = True
) -> Question:
    deadline_at = datetime.now(UTC) + timedelta(seconds=within_s)
    return Question(tenant, id, PIPELINE, body, deadline_at, streamed)


def words(count: int, *, after: int = 0) -> str:
    """What a fake says, from the beginning or after so many words."""
    said = " ".join(f"w{number}" for number in range(after, after + count))
    return f" {said}" if after else said


@asynccontextmanager
async def world(*models: str, **more: Any) -> AsyncIterator[World]:
    """One fake per model, all healthy."""
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(fake_server(model)) for model in models or ("fake",)]
        made = World(fakes, **more)
        stack.push_async_callback(made.close)
        await made.pool.start()
        for fake in fakes:
            fake.seen.clear()
        yield made


async def until(condition: Any, within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
