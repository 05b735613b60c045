"""What answers cost: of each one, and rolling over the last one and five minutes.

Rolling figures are kept in buckets of a second, so their memory does not grow with the load.
"""

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from core.clock import Clock
from core.telemetry.metrics import counter, histogram

MINUTE_S = 60
LONGEST_S = 5 * MINUTE_S
_STEPS = ("validation", "queue_wait", "slot_wait", "tokenization", "first_token", "generation", "decoding")
_ANSWERS = counter("llm_answers_total", "Answers of LLMs", ["outcome"])
_STEP = histogram("llm_answer_step_ms", "Steps of an answer of an LLM", ["step"])
_TOKENS = counter("llm_tokens_total", "Tokens that LLMs have generated, kept answers left out")
_SPEED = histogram(
    "llm_tokens_per_second",
    "Tokens a second of one answer, from its first token on",
    buckets=(1, 2, 5, 8, 10, 12, 14, 20, 30, 50, 75, 100, 200, 500),
)


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, in milliseconds.

    `queue_wait_ms` behind others, `slot_wait_ms` at the head of the queue until a slot was free;
    `tokenization_ms`: the server's count of the prompt, null where it does not count; `first_token_ms` from
    asking the server to the first text; `generation_ms` from there to the last; `decoding_ms`, a part of it:
    turning what the server sent into text. `batch_size`: answers under way on the server at the start, this
    one included. `tokens_per_s` is null for an answer of one token or none.
    """

    validation_ms: float = 0.0
    queue_wait_ms: float = 0.0
    slot_wait_ms: float = 0.0
    tokenization_ms: float | None = None
    first_token_ms: float = 0.0
    generation_ms: float = 0.0
    decoding_ms: float = 0.0
    total_ms: float = 0.0
    tokens: int = 0
    tokens_per_s: float | None = None
    cache_hit: bool = False
    batch_size: int = 0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Rolling figures. Rates and means are null where nothing was there to tell of.

    `queue_efficiency`: share of the answers' total time that was not spent in the queue. `success_rate`: of
    all but invalid questions and those whose client left; what only stood in for an answer is none.
    `tokens_per_s`: of an answer from its first token on, long ones counting more;
    `throughput_tokens_per_s`: of all together.
    """

    seconds: int
    answers: int = 0
    failures: int = 0
    cache_hits: int = 0
    success_rate: float | None = None
    average_batch_size: float | None = None
    queue_efficiency: float | None = None
    queue_wait_ms: float | None = None
    slot_wait_ms: float | None = None
    first_token_ms: float | None = None
    total_ms: float | None = None
    tokens_per_s: float | None = None
    throughput_tokens_per_s: float = 0.0


class QueueState(msgspec.Struct, frozen=True):
    length: int
    capacity: int


class ServerState(msgspec.Struct, frozen=True):
    """`health_score` is null where the server was not asked yet."""

    name: str
    model: str
    state: str
    up: bool
    in_flight: int
    slots: int
    health_score: float | None = None
    health_tokens_per_s: float | None = None
    reason: str | None = None


class BatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one answering process is doing."""

    active_model: str
    queue: QueueState
    servers: Sequence[ServerState]
    last_minute: Window
    last_5_minutes: Window


def merged(windows: Sequence[Window]) -> Window:
    """The figures of several processes as one's: means weighted by what they are means of."""
    asked = [window.answers - window.cache_hits for window in windows]
    answered = [window.answers for window in windows]
    ended = [window.answers + window.failures for window in windows]

    def mean(name: str, weights: Sequence[int]) -> float | None:
        told = [(getattr(w, name), n) for w, n in zip(windows, weights, strict=True) if n]
        told = [(value, n) for value, n in told if value is not None]
        return _share(sum(value * n for value, n in told), sum(n for _, n in told))

    return Window(
        seconds=max((window.seconds for window in windows), default=0),
        answers=sum(answered),
        failures=sum(window.failures for window in windows),
        cache_hits=sum(window.cache_hits for window in windows),
        success_rate=mean("success_rate", ended),
        average_batch_size=mean("average_batch_size", asked),
        queue_efficiency=mean("queue_efficiency", answered),
        queue_wait_ms=mean("queue_wait_ms", asked),
        slot_wait_ms=mean("slot_wait_ms", asked),
        first_token_ms=mean("first_token_ms", asked),
        total_ms=mean("total_ms", answered),
        tokens_per_s=mean("tokens_per_s", asked),
        throughput_tokens_per_s=sum(window.throughput_tokens_per_s for window in windows),
    )


class _Sums:
    """Sums over answers; those of two sets add up."""

    __slots__ = (
        "answers", "asked", "batch", "failures", "first_ms", "generation_ms", "hits", "queue_ms", "rated",
        "slot_ms", "tokens", "total_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.answers = self.asked = self.failures = self.hits = self.rated = self.tokens = self.batch = 0
        self.queue_ms = self.slot_ms = self.first_ms = self.total_ms = self.generation_ms = 0.0

    def add(self, one: Timings) -> None:
        self.answers += 1
        self.hits += one.cache_hit
        self.total_ms += one.total_ms
        if one.cache_hit:
            return
        self.asked += 1
        self.tokens += one.tokens
        self.batch += one.batch_size
        self.queue_ms += one.queue_wait_ms
        self.slot_ms += one.slot_wait_ms
        self.first_ms += one.first_token_ms
        if one.tokens_per_s is not None:
            self.rated += one.tokens - 1
            self.generation_ms += one.generation_ms

    def window(self, seconds: int) -> Window:
        ended = self.answers + self.failures
        return Window(
            seconds=seconds,
            answers=self.answers,
            failures=self.failures,
            cache_hits=self.hits,
            success_rate=_share(self.answers, ended),
            average_batch_size=_share(self.batch, self.asked),
            queue_efficiency=_share(self.total_ms - self.queue_ms - self.slot_ms, self.total_ms),
            queue_wait_ms=_share(self.queue_ms, self.asked),
            slot_wait_ms=_share(self.slot_ms, self.asked),
            first_token_ms=_share(self.first_ms, self.asked),
            total_ms=_share(self.total_ms, self.answers),
            tokens_per_s=_share(self.rated * 1000, self.generation_ms),
            throughput_tokens_per_s=self.tokens / seconds,
        )

    @classmethod
    def of(cls, parts: "Iterable[_Sums]") -> "_Sums":
        total = cls()
        for part in parts:
            for name in cls.__slots__:
                setattr(total, name, getattr(total, name) + getattr(part, name))
        return total


class RollingStatistics:
    """Counts ended questions of this process. On one loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: deque[tuple[int, _Sums]] = deque()

    def answered(self, timings: Timings) -> None:
        self._now().add(timings)
        _ANSWERS.labels("cached" if timings.cache_hit else "answered").inc()
        if not timings.cache_hit:
            _TOKENS.inc(timings.tokens)
            if timings.tokens_per_s is not None:
                _SPEED.observe(timings.tokens_per_s)
        for step in _STEPS:
            value = getattr(timings, f"{step}_ms")
            if value is not None and not timings.cache_hit:
                _STEP.labels(step).observe(value)

    def failed(self, code: str) -> None:
        self._now().failures += 1
        _ANSWERS.labels(code).inc()

    def window(self, seconds: int) -> Window:
        """The last `seconds`, at most 300, the one under way included."""
        since = int(self._clock.monotonic()) - seconds
        return _Sums.of(sums for at, sums in self._buckets if at > since).window(seconds)

    def _now(self) -> _Sums:
        second = int(self._clock.monotonic())
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append((second, _Sums()))
            while self._buckets[0][0] <= second - LONGEST_S:
                self._buckets.popleft()
        return self._buckets[-1][1]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
