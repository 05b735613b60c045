"""Asking through the caches: in memory, from Redis, and through the fraud model where nothing is kept.

On two gateways and an answering process with a model of 200 trees of depth 8 (as `bench.asking`): payments
that one gateway is asked about for the first time, then the other one (it has them from Redis), then the
first one again (it has them in memory); one caller, one payment after the other, and the answers of all three
must be the same decision. Only answers that came from where they should are counted.

Then a skewed workload: 3,200 questions about 1,000 payments, the n-th of which is asked about in proportion
to 1/n, at 400/s within the 10 s for which an answer is kept: about 80 % are hits. What each stage took is
what the gateway says of each answer (`Server-Timing`).

    python -m bench.gateway_cache
"""

import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import uvloop

from bench.asking import TRAINING, own_stack
from bench.gateway_goals import reached
from bench.gateway_payments import INFER, posts
from bench.harness import ROUNDS, BenchResult, require_equal, versions
from bench.http_load import Answer, Load
from bench.own_services import job
from bench.registry import text
from core.errors import StackError

PAYMENTS, SKEWED, DRAWS, RATE, CONNECTIONS = 100, 1_000, 3_200, 400.0, 64
READY_TRIES = 200
LEVELS = ("memory", "redis", "miss")
_STAGE = re.compile(r"(\w+);dur=([0-9.]+)")


def bench(rounds: int = ROUNDS) -> BenchResult:
    """Ratios `hit_memory_p50_ms`, `hit_redis_p50_ms`, `miss_p50_ms`."""
    with ExitStack() as exits:
        given = exits.enter_context(own_stack())
        other = exits.enter_context(job("gateway", "--pipeline", "fraud"))
        bodies = iter(given.bodies[SKEWED:])
        for port in (given.gateway, other.port):
            _wait_until_kept(port, given.key, bodies)
        medians: dict[str, list[float]] = {level: [] for level in LEVELS}
        for _ in range(rounds):
            sent = [next(bodies) for _ in range(PAYMENTS)]
            asked = (("miss", given.gateway), ("redis", other.port), ("memory", given.gateway))
            decided = []
            for level, port in asked:
                answers = asyncio.run(Load(port, posts(port, INFER, given.key, sent), connections=1).each())
                decided.append([_decision(answer) for answer in answers])
                took = [answer.took_s for answer in answers if level_of(answer) == level]
                require_equal(f"most answers are of level {level}", len(took) > PAYMENTS / 2, True)
                medians[level].append(statistics.median(took) * 1e3)
            require_equal("decisions from Redis", decided[1], decided[0])
            require_equal("decisions from memory", decided[2], decided[0])
        figures = _skewed(given.gateway, given.key, given.bodies[:SKEWED])
    return BenchResult(
        bench="gateway-cache",
        ratios=[
            reached("hit_memory_p50_ms", medians["memory"]), reached("hit_redis_p50_ms", medians["redis"]),
            reached("miss_p50_ms", medians["miss"]),
        ],
        versions=versions(("httptools", "msgspec", "confluent-kafka", "onnxruntime", "redis")),
        sizes={
            "payments of a round": PAYMENTS, "skewed over": SKEWED, "skewed questions": DRAWS,
            "trees": TRAINING.trees.trees, "depth": TRAINING.trees.depth,
        },
        figures=figures,
    )  # fmt: skip


def _skewed(port: int, key: str, bodies: Sequence[bytes]) -> dict[str, float]:
    """Shares, times and stages by level."""
    share = 1 / np.arange(1, SKEWED + 1)
    drawn = np.random.default_rng(7).choice(SKEWED, DRAWS, p=share / share.sum())
    requests = posts(port, INFER, key, bodies)
    load = Load(port, [requests[number] for number in drawn], connections=CONNECTIONS)
    answers = uvloop.run(load.steadily(RATE, DRAWS / RATE))
    require_equal("statuses", {answer.status for answer in answers}, {200})
    by_level: dict[str, list[Answer]] = {}
    for answer in answers:
        by_level.setdefault(level_of(answer), []).append(answer)
    hits = sum(len(found) for level, found in by_level.items() if level != "miss")
    figures = {"skewed: hits, %": hits / len(answers) * 100}
    figures |= _times("skewed, all", answers)
    for level, found in sorted(by_level.items()):
        figures[f"skewed, {level}: %"] = len(found) / len(answers) * 100
        figures |= _times(f"skewed, {level}", found)
        stages: dict[str, list[float]] = {}
        for answer in found:
            for stage, took_ms in _STAGE.findall(answer.header("server-timing")):
                stages.setdefault(stage, []).append(float(took_ms))
        figures |= {
            f"skewed, {level}, stage {stage}: p50 ms": statistics.median(took)
            for stage, took in stages.items()
        }
    return figures


def _times(name: str, answers: Sequence[Answer]) -> dict[str, float]:
    took = np.array([answer.took_s for answer in answers]) * 1e3
    return {f"{name}: p50 ms": float(np.median(took)), f"{name}: p99 ms": float(np.quantile(took, 0.99))}


def level_of(answer: Answer) -> str:
    """Where an answer came from, by its `Cache-Status`."""
    status = answer.header("cache-status")
    for level in ("memory", "redis"):
        if status.startswith(f"{level}; hit"):
            return level
    return "collapsed" if "collapsed" in status else "miss" if "fwd=miss" in status else status


def _decision(answer: Answer) -> tuple[float, str, str]:
    require_equal("status", answer.status, 200)
    told = json.loads(answer.body)
    return told["score"], told["decision"], told["decided_at"]


def _wait_until_kept(port: int, key: str, bodies: Iterator[bytes]) -> None:
    """A gateway keeps answers once it knows which version serves."""
    for _ in range(READY_TRIES):
        request = posts(port, INFER, key, [next(bodies)])
        (answer,) = asyncio.run(Load(port, request, connections=1).each())
        if "stored" in answer.header("cache-status"):
            return
        time.sleep(0.1)
    raise StackError("the gateway keeps no answer", where=answer.header("cache-status"))


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
