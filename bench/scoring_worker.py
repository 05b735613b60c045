"""The scoring worker against the bare model, a hand-written loop, and a Faust agent.

All on the same enriched payments (real ones where they can be had) with the same trained model of 200 trees
of depth 8, from a topic of a real local broker to a topic of results. Every arm is a process of its own that
is warm when it is measured; each pass reads the whole topic in a new group and writes to a new topic. Results
of the arms are compared before anything is measured. CPU is the arm's process with all its threads, Kafka
client included, from the first message to the last acknowledgement; the broker's CPU is nobody's.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from confluent_kafka import TopicPartition

from bench.harness import ROUNDS, BenchResult, Ratio, require_equal, versions
from bench.scoring_corpus import PARTITIONS, Corpus, create_topic, delete_topics, prepare, record_of
from core.errors import StackError, Unavailable
from core.ids import new_id
from core.settings import settings
from pipelines.catalog.fraud import RESULTS
from schemas import broker
from schemas.catalog.decisions import Decision
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry
from stack.local import Stack

ROWS = 40_000
HAND_ROWS = 10_000
FAUST_ROWS = 4_000
WARM_UP = 2  # and the pass whose results are compared
PASS_S = 240.0
READ_S = 60.0
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "onnxruntime", "xgboost-cpu", "confluent-kafka", "pyruhvro", "fastavro", "faust-streaming", "pyarrow",
)  # fmt: skip


@dataclass
class Cost:
    """Of one pass, per record."""

    cpu_us: float
    wall_us: float
    rss_mb: float = 0.0


@dataclass
class Arm:
    """A way of scoring. `once` makes a pass that writes to the topic given."""

    once: Callable[[str], Cost]
    costs: list[Cost] = field(default_factory=list)

    def measure(self) -> Cost:
        with output() as topic:
            cost = self.once(topic)
        self.costs.append(cost)
        return cost


def bench() -> BenchResult:
    """Ratios `model_cpu`, `hand_cpu`, `hand_rate`, `faust_cpu`, each also as `..._no_reasons`. Some
    five minutes on two free cores; an arm that does not answer within `PASS_S` is ended."""
    stack = Stack(settings())
    ran = stack.running()
    stack.up(only={"kafka", "registry"}, resume_jobs=False)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            corpus = prepare(ROWS, settings().root / "bench")
            path = Path(scratch) / "corpus.json"
            corpus.write(path)
            try:
                return _measured(corpus, path)
            finally:
                delete_topics([corpus.source])
    finally:
        if not ran:
            stack.down()


def _measured(corpus: Corpus, path: Path) -> BenchResult:
    ratios: list[Ratio] = []
    figures: dict[str, float] = {}
    mix: dict[str, int] = {}
    control: list[float] = []
    with ExitStack() as open_arms:
        model = Arm(open_arms.enter_context(arm("model", path, ROWS)))
        for suffix, ending, words in (
            ("", "", "with reasons"), ("_no_reasons", "-without-reasons", "without reasons")
        ):  # fmt: skip
            ours = Arm(open_arms.enter_context(arm(f"ours{ending}", path, ROWS)))
            hand = Arm(open_arms.enter_context(arm(f"hand{ending}", path, HAND_ROWS)))
            reasons = "none" if suffix else "reasons"
            faust = Arm(lambda topic, reasons=reasons: faust_pass(path, topic, reasons))  # type: ignore[misc]
            mix = _require_equal_results(ours, hand, faust)
            rounds = _rounds(model, hand, ours, faust)
            control += _control([one["ours"] for one in rounds])
            ratios += _ratios(rounds, suffix, words)
            for name, one in (("worker", ours), ("hand", hand), ("faust", faust)):
                figures |= _figures(f"{name}, {words}", one)
            figures[f"worker, {words}: resident MB"] = max(cost.rss_mb for cost in ours.costs)
        figures |= _figures("model alone", model)
    return BenchResult(
        bench="scoring-worker",
        ratios=ratios,
        versions=versions(PACKAGES),
        sizes={
            "rows per pass": ROWS,
            "rows per hand-written pass": HAND_ROWS,
            "rows per Faust pass": FAUST_ROWS,
            "batch": "512 (model, hand), up to 4,096 (worker)",
            "bytes per record": corpus.bytes_per_record,
            "payments": corpus.origin,
            **mix,
        },
        figures=figures,
        control=Ratio("control", tuple(control), None, meaning="CPU a record: worker over itself"),
    )


Round = dict[str, tuple[Cost, Cost]]
"""Two passes of each arm, mirrored: model, hand, worker, Faust, Faust, worker, hand, model. So each peer
stands to the worker as A B B A. Faust's two are one of twice the rows, as its process starts anew."""


def _rounds(model: Arm, hand: Arm, ours: Arm, faust: Arm) -> list[Round]:
    """After passes that do not count: a worker's memory has its size after the third."""
    for _ in range(WARM_UP):
        ours.measure()
    hand.measure()
    model.measure()
    outer = {"model": model, "hand": hand, "ours": ours}
    for one in (*outer.values(), faust):
        one.costs.clear()
    rounds = []
    for _ in range(ROUNDS):
        before = {name: one.measure() for name, one in outer.items()}
        both = faust.measure()
        after = {name: one.measure() for name, one in reversed(outer.items())}
        rounds.append({"faust": (both, both)} | {name: (before[name], after[name]) for name in outer})
    return rounds


def _ratios(rounds: Sequence[Round], suffix: str, words: str) -> Iterator[Ratio]:
    def cpu(name: str, over: str, under: str, goal: float, meaning: str, at_most: bool = False) -> Ratio:
        found = [_total(one[over]) / _total(one[under]) for one in rounds]
        return Ratio(name + suffix, tuple(found), goal, at_most, f"CPU a record: {meaning}, {words}")

    yield cpu("model_cpu", "ours", "model", 2.2, "worker over the model alone", True)
    yield cpu("hand_cpu", "hand", "ours", 4.0, "hand-written loop over the worker")
    rates = [sum(c.wall_us for c in one["hand"]) / sum(c.wall_us for c in one["ours"]) for one in rounds]
    meaning = f"records a second of the worker over the hand-written loop's, {words}"
    yield Ratio("hand_rate" + suffix, tuple(rates), 3.0, meaning=meaning)
    yield cpu("faust_cpu", "faust", "ours", 25.0, "Faust agent over the worker")


def _control(pairs: Sequence[tuple[Cost, Cost]]) -> Iterator[float]:
    """The worker against itself: its passes in two rounds that follow each other, as A B B A."""
    for (a1, b1), (b2, a2) in itertools.pairwise(pairs):
        yield _total((a1, a2)) / _total((b1, b2))


def _total(costs: tuple[Cost, Cost]) -> float:
    return sum(cost.cpu_us for cost in costs)


def _figures(name: str, one: Arm) -> dict[str, float]:
    return {
        f"{name}: CPU us/record": float(np.median([cost.cpu_us for cost in one.costs])),
        f"{name}: wall us/record": float(np.median([cost.wall_us for cost in one.costs])),
    }


@contextmanager
def arm(name: str, corpus: Path, rows: int) -> Iterator[Callable[[str], Cost]]:
    """A warm process that makes a pass per call."""
    command = [sys.executable, "-m", "bench.scoring_arms", name, str(corpus)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=None
    )
    if process.stdin is None or process.stdout is None:
        raise StackError(f"the arm {name} has no pipes", where=" ".join(command))
    ask, answers = process.stdin, process.stdout

    def answer() -> str:
        too_long = threading.Timer(PASS_S, process.kill)
        too_long.start()
        try:
            line = answers.readline()
        finally:
            too_long.cancel()
        if not line:
            raise StackError(
                f"the arm {name} ended, or took more than {PASS_S:g} s",
                where=" ".join(command),
                mend="see its error above",
            )
        return line

    def once(topic: str) -> Cost:
        ask.write(f"{topic} {rows}\n")
        ask.flush()
        return _cost(answer())

    try:
        answer()
        yield once
    finally:
        with suppress(BrokenPipeError):
            ask.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def faust_pass(corpus: Path, topic: str, reasons: str) -> Cost:
    """One pass of the Faust agent, a process each; its start is not measured."""
    command = [sys.executable, "-m", "bench.scoring_faust", str(corpus), topic, str(FAUST_ROWS), reasons]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PASS_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise StackError(f"the Faust agent took more than {PASS_S:g} s", where=" ".join(command)) from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise StackError("the Faust agent ended without a result", where=done.stderr[-500:])
    return _cost(lines[-1])


def _cost(line: str) -> Cost:
    found = json.loads(line)
    per = 1e6 / found["rows"]
    return Cost(found["cpu"] * per, found["wall"] * per, found.get("rss_mb", 0.0))


@contextmanager
def output() -> Iterator[str]:
    """A topic for the results of one pass."""
    topic = f"bench.transactions-{new_id()[-12:]}.results.v1"
    create_topic(topic)
    try:
        yield topic
    finally:
        delete_topics([topic])


def _require_equal_results(ours: Arm, hand: Arm, faust: Arm) -> dict[str, int]:
    """Same ids, same decisions, same scores and reasons; returns how often each decision was taken."""
    found = []
    for one in (ours, hand, faust):
        with output() as topic:
            one.once(topic)
            found.append(_read(topic))
    mine, by_hand, by_faust = found
    require_equal("records answered", len(mine), ROWS)
    require_equal("records answered by hand", len(by_hand) >= HAND_ROWS, True)
    require_equal("records answered by Faust", len(by_faust) >= FAUST_ROWS, True)
    for peer, theirs in (("hand", by_hand), ("faust", by_faust)):
        for id, decision in theirs.items():
            _require_same(peer, mine[id], decision)
    counts: dict[str, int] = {}
    for decision in mine.values():
        counts[decision.decision] = counts.get(decision.decision, 0) + 1
    return counts


def _require_same(peer: str, ours: Decision, theirs: Decision) -> None:
    what = f"{ours.id} by {peer}"
    require_equal(f"decision of {what}", (ours.decision, ours.status), (theirs.decision, theirs.status))
    close = abs((ours.score or 0.0) - (theirs.score or 0.0)) < 1e-3
    require_equal(f"score of {what} ({ours.score}, {theirs.score})", close, True)
    shares = [reason.contribution for reason in ours.reasons]
    others = [reason.contribution for reason in theirs.reasons]
    same = len(shares) == len(others) and np.allclose(shares, others, atol=1e-4)
    require_equal(f"reasons of {what} ({ours.reasons}, {theirs.reasons})", bool(same), True)
    require_equal(
        f"kept fields of {what}",
        (ours.entity, ours.occurred_at, ours.received_at, ours.source, ours.traceparent, ours.model_version),
        (theirs.entity, theirs.occurred_at, theirs.received_at, theirs.source, theirs.traceparent,
         theirs.model_version),
    )  # fmt: skip


def _read(topic: str) -> dict[str, Decision]:
    """The first decision per id."""
    codec = RecordCodec(record_of(RESULTS), SchemaRegistry.of(settings()), RESULTS.subject)
    consumer = broker.consumer(settings(), None, enable_partition_eof=True)
    found: dict[str, Decision] = {}
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        ended: set[int] = set()
        for _ in range(int(READ_S / 0.1)):
            for message in consumer.consume(1000, timeout=0.1):
                if message.error() is not None:
                    ended.add(message.partition())
                    continue
                decision = codec.decode(message.value())
                if isinstance(decision, Decision):
                    found.setdefault(decision.id, decision)
            if len(ended) == PARTITIONS:
                return found
    finally:
        consumer.close()
    raise Unavailable(f"results could not be read in {READ_S:g} s", where=topic)
