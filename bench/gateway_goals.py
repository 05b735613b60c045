"""What the benchmark of the gateway must reach: a goal per ratio, or per time in its name's unit."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.harness import Ratio


class Goal(NamedTuple):
    """The median is at least `bound`, or at most."""

    bound: float
    meaning: str
    at_most: bool = False


GOALS: Mapping[str, Goal] = {
    "publish": Goal(4.0, "POST of an event to 202, requests/s of 64 callers: ours over FastAPI's"),
    "ask_p50_ms": Goal(4.0, "asking over Kafka, 200 requests/s: median, ms", at_most=True),
    "ask_p99_ms": Goal(12.0, "asking over Kafka, 200 requests/s: 99 of 100, ms", at_most=True),
    "ask_64": Goal(2.0, "asking over Kafka, requests/s of 64 callers: ours over FastAPI's futures map"),
    "hit_memory_p50_ms": Goal(1.0, "asked again, from memory: median, ms", at_most=True),
    "hit_redis_p50_ms": Goal(2.0, "asked again, from Redis: median, ms", at_most=True),
    "miss_p50_ms": Goal(10.0, "asked for the first time, through the fraud model: median, ms", at_most=True),
    "suggestion_hit_p95_ms": Goal(100.0, "WebSocket: prompt to suggestion, cached: 95 of 100, ms", True),
    "first_token_p95_ms": Goal(100.0, "WebSocket: prompt to first token, local model: 95 of 100, ms", True),
    "push_p50_ms": Goal(10.0, "result to frame, 200 sockets, 1,000 events/s: median, ms", at_most=True),
    "push_p99_ms": Goal(50.0, "result to frame, 200 sockets, 1,000 events/s: 99 of 100, ms", at_most=True),
    "push_rate": Goal(2.0, "events/s to each of 200 sockets with p99 < 100 ms: ours over FastAPI's"),
    "key_cached_us": Goal(100.0, "check of a key that is known: median, us", at_most=True),
    "key_uncached_us": Goal(1_000.0, "check of a key seen for the first time: median, us", at_most=True),
    "limiter_us": Goal(100.0, "all limits of one request: median, us", at_most=True),
    "livez_p99_ms": Goal(5.0, "/livez sent beside 64 callers who publish: 99 of 100, ms", at_most=True),
    "memory_growth": Goal(1.03, "resident memory at the end over that after a third of the time", True),
}


def reached(name: str, per_round: Sequence[float]) -> Ratio:
    """A figure of these rounds with its goal."""
    goal = GOALS[name]
    return Ratio(name, tuple(per_round), goal.bound, goal.at_most, goal.meaning)
