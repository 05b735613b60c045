"""Interaction over a WebSocket: from a prompt to the first of its suggestion, with the local model.

One socket of the Python client, a gateway that takes prompts, the process that answers them, and one
llama.cpp server with the small model, as `millstream up --only llm` starts it. 60 prompts that nobody asked
before, each until its suggestion is final: `first_token_p95_ms` is to the first text. Then the same prompts
again, and as they go on when the suggestion is typed: `suggestion_hit_p95_ms`; what comes from the cache must
be what the model said. The figures have prompts, too, that supersede one which is under way.

    python -m bench.gateway_interaction
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain

import numpy as np

from bench.gateway_goals import reached
from bench.harness import BenchResult, require_equal, versions
from bench.own_services import SERVICES, job, own_services
from bench.registry import text
from core.settings import LOOPBACK
from gateway.client import GatewayClient
from gateway.keys import create_key
from gateway.stream_client import Stream
from pipelines.changes import apply, apply_topics
from pipelines.generating import TOPICS
from pipelines.load import load_scoring

ROUNDS, TOKENS, TYPED = 5, 8, 3
SUPERSEDED_AFTER_S = 0.03
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn")
_THINGS = ("your letter", "the invoice", "our meeting", "the parcel", "your order", "the garden",
           "our trip", "the concert", "your question", "the repair")  # fmt: skip
_BEGUN = ("thank you for", "I write about", "let us talk about", "we are sorry for", "please look at")


@dataclass(frozen=True)
class Suggested:
    """`first_s`: from the prompt to the first frame of its suggestion; None where it was superseded."""

    first_s: float | None
    source: str
    text: str


def bench() -> BenchResult:
    """Ratios `suggestion_hit_p95_ms`, `first_token_p95_ms`."""
    with ExitStack() as exits:
        given = exits.enter_context(own_services((*SERVICES, "llm"))).settings
        apply([load_scoring("fraud")], given)
        apply_topics(TOPICS, given)
        exits.enter_context(job("generating"))
        gateway = exits.enter_context(job("gateway", "--pipeline", "fraud", "--llm"))
        key = create_key(given, "bench")
        hits, misses, over = asyncio.run(_measured(f"http://{LOOPBACK}:{gateway.port}", key))
    return BenchResult(
        bench="gateway-interaction",
        ratios=[
            reached("suggestion_hit_p95_ms", [_p95(found) for found in hits]),
            reached("first_token_p95_ms", [_p95(found) for found in misses]),
        ],
        versions=versions(("httptools", "xllamacpp", "websockets")),
        sizes={
            "prompts": len(_prompts(0)) * ROUNDS, "tokens": TOKENS, "model": given.llm.model,
            "threads of the model": given.llm.threads,
        },
        figures={
            "cached: p50 ms": float(np.median(list(chain(*hits)))) * 1e3,
            "first token: p50 ms": float(np.median(list(chain(*misses)))) * 1e3,
            "first token where another prompt was superseded: p50 ms": float(np.median(over)) * 1e3,
            "first token where another prompt was superseded: p95 ms": _p95(over),
        },
    )  # fmt: skip


async def _measured(url: str, key: str) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """Seconds of each round's hits and misses, and of all that superseded another prompt."""
    hits: list[list[float]] = []
    misses: list[list[float]] = []
    over: list[float] = []
    async with GatewayClient(url, key) as client, client.stream() as stream:
        await _suggest(stream, "Good morning")  # the model's first answer is slower
        for number in range(ROUNDS):
            prompts = _prompts(number)
            made = [await _suggest(stream, prompt) for prompt in prompts]
            require_equal("sources of new prompts", {one.source for one in made}, {"model"})
            misses.append([one.first_s for one in made if one.first_s is not None])
            said = [(prompt, one.text) for prompt, one in zip(prompts, made, strict=True) if one.text]
            hits.append(await _again(stream, said))
            over += await _superseding(stream, number)
    return hits, misses, over


async def _again(stream: Stream, said: Sequence[tuple[str, str]]) -> list[float]:
    """The same prompts again, then with the beginning of what was suggested typed."""
    took = []
    for prompt, continuation in said:
        for typed in range(min(TYPED, len(continuation))):
            found = await _suggest(stream, prompt + continuation[:typed])
            told = (found.source, found.text)
            require_equal("what is cached", told, ("cache", continuation[typed:]))
            took.append(found.first_s or 0.0)
    return took


async def _superseding(stream: Stream, number: int) -> list[float]:
    took = []
    for thing in _THINGS[:4]:
        earlier = asyncio.create_task(_suggest(stream, f"Dear {number}, when {thing} was"))
        await asyncio.sleep(SUPERSEDED_AFTER_S)
        found = await _suggest(stream, f"Dear {number}, when {thing} was done")
        await earlier
        if found.first_s is not None:
            took.append(found.first_s)
    return took


async def _suggest(stream: Stream, prompt: str) -> Suggested:
    begun, first, last = time.perf_counter(), None, Suggested(None, "", "")
    async for suggestion in stream.suggest(prompt, max_tokens=TOKENS):
        first = first or time.perf_counter() - begun
        last = Suggested(first, suggestion.source, suggestion.partial)
    return last


def _prompts(number: int) -> list[str]:
    """Those of a round; none is how another one begins."""
    return [
        f"Dear {name}, {_BEGUN[number]} {thing}"
        for place, name in enumerate(_NAMES)
        for thing in _THINGS[place % 5 :: 5]
    ]


def _p95(seconds: Sequence[float]) -> float:
    return float(np.quantile(seconds, 0.95)) * 1e3


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
