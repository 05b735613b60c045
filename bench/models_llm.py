"""The LLM operator against calling its server directly: `python -m bench.models_llm`.

Both arms ask one llama.cpp server with the small model. Ours is the whole operator: validation, admission,
count of the prompt's tokens, pieces, statistics. The peer is the least that a client can do: the same request
by aiohttp, bytes searched for text, nothing checked. First the texts of both are compared.

`llm_tokens`: tokens a second at the server's concurrency, ours over the peer's. `llm_first_token_ms`: what
the operator adds to the time to the first token, one question at a time; medians of each round.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import httpx

from bench.harness import ROUNDS, BenchResult, Ratio, compare, control, require_equal, versions
from bench.registry import text as shown
from core.clock import SystemClock
from core.errors import StackError
from core.settings import Settings, settings
from models.llm.client import HttpLanguageServer
from models.llm.connections import Pooling
from models.llm.servers import Unbroken
from operators.answer_statistics import RollingStatistics
from operators.asking import Question
from operators.generate import PIPELINE, Generate
from operators.generate_request import Limits
from operators.server_pool import Member, ServerPool
from stack.llm import Llm
from stack.managed import free_port
from stack.process import kill_group, spawn
from stack.service import Silent

TOKENS = 32
ANSWERS_A_SLOT = 1
FIRSTS = 8
"""Questions of each measurement of the first token."""
START_S = 120.0
_SUBJECTS = ("rivers", "mountains", "bread", "music", "the sea", "clocks", "paper", "bees")


class Arms:
    """Both ways to the same server, on one loop."""

    def __init__(self, url: str, model: str, slots: int) -> None:
        self.slots = slots
        self._url = f"{url}/v1/chat/completions"
        self._model = model
        self._loop = asyncio.new_event_loop()
        clock = SystemClock()
        self.statistics = RollingStatistics(clock)
        self._server = HttpLanguageServer("llm", model, url, pooling=Pooling(silence_s=60.0), floor=0.1)
        pool = ServerPool(
            [Member(self._server, slots=slots, breaker=Unbroken(), clock=clock)], queue=32, clock=clock
        )
        self._generate = Generate(pool, self.statistics, limits=Limits(), clock=clock)
        self._loop.run_until_complete(pool.start())
        self._session = self._loop.run_until_complete(self._open())

    async def ours(self, prompt: str, tokens: int) -> tuple[str, float]:
        """The text and the seconds to its first part."""
        begun, first = time.perf_counter(), 0.0

        async def emit(piece: bytes) -> None:
            nonlocal first
            first = first or time.perf_counter() - begun

        body = json.dumps({"prompt": prompt, "max_tokens": tokens}).encode()
        deadline_at = datetime.now(UTC) + timedelta(minutes=5)
        question = Question("bench", "q", PIPELINE, body, deadline_at, streamed=True)
        answer = await self._generate.answer(question, emit)
        return json.loads(answer.body)["text"], first

    async def direct(self, prompt: str, tokens: int) -> tuple[str, float]:
        begun, first = time.perf_counter(), 0.0
        asked = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 0.0,
            "stream": True,
        }
        raw = b""
        # llama.cpp closes the connection after a stream; who keeps it loses requests now and then
        async with self._session.post(self._url, json=asked, headers={"connection": "close"}) as response:
            async for chunk in response.content.iter_any():
                raw += chunk
                if not first and b'"content":"' in raw:
                    first = time.perf_counter() - begun
        lines = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: {")]
        deltas = [line["choices"][0]["delta"] for line in lines if line["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas), first

    def at_concurrency(self, ask: "Ask") -> float:
        """Seconds for all answers with as many under way as the server has slots."""

        async def slot(number: int) -> None:
            for turn in range(ANSWERS_A_SLOT):
                subject = _SUBJECTS[(number * ANSWERS_A_SLOT + turn) % len(_SUBJECTS)]
                await ask(f"Write about {subject}.", TOKENS)

        async def all_slots() -> float:
            begun = time.perf_counter()
            await asyncio.gather(*(slot(number) for number in range(self.slots)))
            return time.perf_counter() - begun

        return self._loop.run_until_complete(all_slots())

    def first(self, ask: "Ask") -> float:
        """Milliseconds to the first text of one question."""
        return self._loop.run_until_complete(ask("Write about rivers.", 2))[1] * 1000

    def text(self, ask: "Ask", prompt: str) -> str:
        return self._loop.run_until_complete(ask(prompt, TOKENS))[0]

    def close(self) -> None:
        self._loop.run_until_complete(self._session.close())
        self._loop.run_until_complete(self._server.close())
        self._loop.close()

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self.slots * 2))


Ask = Callable[[str, int], Awaitable[tuple[str, float]]]


def bench() -> BenchResult:
    """Start a server of the bench's own, measure, stop it."""
    given = settings()
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        port = free_port()
        own = given.model_copy(
            update={"home": Path(folder), "llm": given.llm.model_copy(update={"port": port, "url": None})}
        )
        pid = _start(own)
        try:
            arms = Arms(own.llm.addresses[0][1], own.llm.model, own.llm.slots)
            try:
                return _measured(arms, own)
            finally:
                arms.close()
        finally:
            kill_group(pid)


def _measured(arms: Arms, own: Settings) -> BenchResult:
    for subject in _SUBJECTS[:3]:
        prompt = f"Write about {subject}."
        arms.text(arms.direct, prompt)  # what the server keeps of a prompt rounds a little differently
        require_equal(prompt, arms.text(arms.ours, prompt), arms.text(arms.direct, prompt))
    tokens = compare(
        "llm_tokens",
        numerator=lambda: arms.at_concurrency(arms.direct),
        denominator=lambda: arms.at_concurrency(arms.ours),
        goal=0.95,
        meaning=f"tokens/s with {arms.slots} answers under way, ours over the server called directly",
    )
    added, ours, direct = _first_tokens(arms)
    window = arms.statistics.window(300)
    count = arms.slots * ANSWERS_A_SLOT * TOKENS
    return BenchResult(
        "models-llm",
        [
            tokens,
            Ratio("llm_first_token_ms", added, 5.0, True, "milliseconds that the operator adds, p50, c=1"),
        ],
        versions(["xllamacpp", "aiohttp"]),
        {"model": own.llm.model, "slots": arms.slots, "threads": own.llm.threads, "tokens": TOKENS},
        {
            "first_token_ours_ms": ours,
            "first_token_direct_ms": direct,
            "tokens_per_s_ours": count / arms.at_concurrency(arms.ours),
            "tokens_per_s_of_an_answer": window.tokens_per_s or 0.0,
            "queue_wait_ms": (window.queue_wait_ms or 0.0) + (window.slot_wait_ms or 0.0),
            "success_rate": window.success_rate or 0.0,
        },
        control(lambda: arms.at_concurrency(arms.direct)),
    )


def _first_tokens(arms: Arms) -> tuple[tuple[float, ...], float, float]:
    """Per round the difference of the medians; and both medians over all rounds."""
    added: list[float] = []
    all_ours: list[float] = []
    all_direct: list[float] = []
    for _ in range(2 * ROUNDS):
        ours: list[float] = []
        direct: list[float] = []
        for turn in range(FIRSTS):
            order = ((ours, arms.ours), (direct, arms.direct))
            for into, ask in order if turn % 2 else order[::-1]:
                into.append(arms.first(ask))
        added.append(statistics.median(ours) - statistics.median(direct))
        all_ours += ours
        all_direct += direct
    return tuple(added), statistics.median(all_ours), statistics.median(all_direct)


def _start(own: Settings) -> int:
    service = Llm(own)
    service.fetch(Silent())
    service.prepare()
    unit = service.units()[0]
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = spawn(unit.argv, env=env, cwd=unit.cwd, log=Path(unit.log))
    deadline = time.monotonic() + START_S
    while True:
        try:
            if httpx.get(unit.health.target, timeout=2).status_code == 200:
                return process.pid
        except httpx.HTTPError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            kill_group(process.pid)
            raise StackError("the LLM server does not start", where=unit.log)
        time.sleep(0.1)


def main(arguments: Sequence[str]) -> None:
    result = bench()
    print(json.dumps(result.as_json()) if "--json" in arguments else shown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
