"""What is asked gets the score that the stream gives the same record: another road, the same numbers."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from core.clock import SystemClock, from_millis, to_millis
from core.errors import MillstreamError, Rejected, Unavailable
from features.online.rolling import RollingStore
from jobs.worker.answering.asked_step import AskedStep
from jobs.worker.answering.scoring import ScoringAnswerer
from jobs.worker.main import OnlineFeatures
from jobs.worker.scoring import Declared, Scoring
from jobs.worker.serving import Serving
from operators.asking import Answer, Question
from operators.error_rates import ONE_MINUTE, ErrorRates
from tests.features.redis_server import RedisServer, own_redis
from tests.jobs.worker.payments import (
    BANDS,
    BREAKS,
    GIVES_NAN,
    START,
    VIEW,
    EnrichedPayment,
    Formula,
    Payment,
    columns,
    plan,
)  # fmt: skip

CLOCK = SystemClock()
HOUR_MS = 3_600_000
LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as made:
        yield made


class Source:
    """The formula, which can be broken."""

    def __init__(self) -> None:
        self.scorer = Formula()

    def champion(self) -> str:
        return "1"

    def load(self, version: str) -> Formula:
        del version
        return self.scorer


DECLARED = Declared("small", "card_id", "occurred_at", VIEW.feature_names, BANDS, batch=64)


def answerer(
    client: redis.Redis, source: Source | None = None, rates: ErrorRates | None = None
) -> ScoringAnswerer:
    serving = Serving(source or Source(), pipeline="small")
    serving.refresh()
    made = plan()

    def step(fields: Sequence[str]) -> AskedStep:
        return AskedStep(DECLARED, fields, clock=CLOCK, reader=OnlineFeatures(client, made))

    return ScoringAnswerer(
        made, step, serving, batch=64, clock=CLOCK, rates=rates or ErrorRates("small", CLOCK)
    )


async def never(piece: bytes) -> None:
    raise AssertionError("nothing is streamed")


def question(record: Payment, tenant: str = "acme") -> Question:
    return Question(tenant, f"ask-{record.id}", "small", msgspec.json.encode(record), LATER)


def history(seed: int, rows: int = 300) -> list[Payment]:
    """Payments of six cards over some hours, at times that differ."""
    random_ = random.Random(seed)
    times = random_.sample(range(5 * HOUR_MS), rows)
    amounts = [n for n in range(100, 9_900) if n not in (BREAKS, GIVES_NAN)]
    return [
        Payment(
            tenant="acme", id=f"{seed}-{number}", card_id=f"{seed}-card-{random_.randrange(6)}",
            occurred_at=from_millis(START + at), amount_cents=random_.choice(amounts),
        )
        for number, at in enumerate(times)
    ]  # fmt: skip


def streamed(payments: list[Payment]) -> list[dict[str, Any]]:
    """Their decisions on the stream: features by a plain reading of the view, then the worker's step."""
    rows = []
    for one in payments:
        at = to_millis(one.occurred_at)
        window = [
            other.amount_cents
            for other in payments
            if other.card_id == one.card_id and at - HOUR_MS <= to_millis(other.occurred_at) <= at
        ]
        given = msgspec.structs.asdict(one) | {"count_1h": len(window), "mean_1h": sum(window) / len(window)}
        rows.append(EnrichedPayment(**given))
    scoring = Scoring(DECLARED, clock=CLOCK, reader=None)
    scored = scoring.step(columns(rows), np.zeros(len(rows), np.int64), Formula(), started_ms=0)
    return scored.results.to_pylist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("published", [False, True], ids=["before it is published", "after"])
async def test_the_score_is_that_of_the_stream(server: RedisServer, seed: int, published: bool) -> None:
    payments = history(seed * 10 + published)
    expected = {row["id"]: row for row in streamed(payments)}
    asked = random.Random(seed).sample(payments, 60)
    client = redis.Redis(port=server.port)
    store = RollingStore(client, VIEW)
    stored = payments if published else [one for one in payments if one not in asked]
    rest = {one.id for one in asked}
    store.write(columns([EnrichedPayment(**msgspec.structs.asdict(one)) for one in stored]))
    made = answerer(client)
    if not published:
        # each is asked when all before it are there, itself not
        by_time = sorted(asked, key=lambda one: one.occurred_at)
        answers = []
        for one in by_time:
            answers.append(await made.answer(question(one), never))
            store.write(columns([EnrichedPayment(**msgspec.structs.asdict(one))]))
        asked = by_time
    else:
        answers = list(await asyncio.gather(*(made.answer(question(one), never) for one in asked)))
    assert len(rest) == 60
    decisions = set()
    for one, answer in zip(asked, answers, strict=True):
        body, row = msgspec.json.decode(answer.body), expected[one.id]
        assert answer.status == 200
        assert body["score"] == pytest.approx(row["score"], rel=1e-6)
        assert body["decision"] == row["decision"]
        assert [r["input"] for r in body["reasons"]] == [r["input"] for r in row["reasons"]]
        for ours, theirs in zip(body["reasons"], row["reasons"], strict=True):
            assert ours["contribution"] == pytest.approx(theirs["contribution"], rel=1e-5)
        assert (body["degraded"], body["level"], body["model_version"]) == (False, "live", "1")
        assert (body["id"], body["record_id"], body["entity"]) == (f"ask-{one.id}", one.id, one.card_id)
        assert datetime.fromisoformat(body["feature_time"]) == one.occurred_at
        decisions.add(body["decision"])
    assert decisions == {"block", "review", "confirm"}
    made.close()


async def test_asking_leaves_the_store_as_it_was(server: RedisServer) -> None:
    client = redis.Redis(port=server.port)
    client.flushall()
    made = answerer(client)
    await made.answer(question(history(99)[0]), never)
    assert client.dbsize() == 0
    made.close()


async def test_one_that_the_model_cannot_score_fails_alone(server: RedisServer) -> None:
    rates = ErrorRates("small", CLOCK)
    made = answerer(redis.Redis(port=server.port), rates=rates)
    payments = history(50)[:8]
    payments[3] = msgspec.structs.replace(payments[3], amount_cents=BREAKS)
    payments[5] = msgspec.structs.replace(payments[5], amount_cents=GIVES_NAN)
    answers = await asyncio.gather(
        *(made.answer(question(one), never) for one in payments), return_exceptions=True
    )
    assert [isinstance(answer, Answer) for answer in answers] == [n not in (3, 5) for n in range(8)]
    for number in (3, 5):
        error = answers[number]
        assert isinstance(error, Rejected)
        assert error.code == "not_scored"
    counted = rates.counted("infer", ONE_MINUTE)
    assert (counted.calls, counted.failed) == (8, {"model_failed": 2})
    assert rates.counted("features", ONE_MINUTE).calls == 8
    made.close()


async def test_what_waits_while_a_batch_is_scored_is_scored_in_one_call(server: RedisServer) -> None:
    source, sizes = Source(), []

    class Counted(Formula):
        def score(self, matrix: Any) -> Any:
            sizes.append(len(matrix))
            return super().score(matrix)

    source.scorer = Counted()
    made = answerer(redis.Redis(port=server.port), source)
    sizes.clear()
    await asyncio.gather(*(made.answer(question(one), never) for one in history(51)[:40]))
    assert sum(sizes) == 40
    assert len(sizes) <= 2
    made.close()


async def test_a_broken_model_is_503_and_a_good_one_goes_on(server: RedisServer) -> None:
    source = Source()
    made = answerer(redis.Redis(port=server.port), source)
    one = question(history(52)[0])
    source.scorer.broken = True
    with pytest.raises(Unavailable) as raised:
        await made.answer(one, never)
    assert raised.value.code == "model_unavailable"
    source.scorer.broken = False
    assert (await made.answer(one, never)).status == 200
    made.close()


async def test_without_the_online_store_the_answer_says_so() -> None:
    with own_redis() as server:
        client = redis.Redis(port=server.port, socket_connect_timeout=0.2)
        made = answerer(client)
        one = history(53)[0]
        server.kill()
        answer = msgspec.json.decode((await made.answer(question(one), never)).body)
        assert (answer["degraded"], answer["level"]) == (True, "no_features")
        assert answer["feature_time"] is None
        assert "online store" in answer["degraded_reason"]
        server.start()

        async def live() -> bool:
            found = msgspec.json.decode((await made.answer(question(one), never)).body)
            return found["level"] == "live"

        async with asyncio.timeout(10):
            while not await live():
                await asyncio.sleep(0.1)
        made.close()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"tenant":"acme"}', b"\xff", b"[" * 10_000])
async def test_a_body_that_is_no_record_is_rejected(server: RedisServer, body: bytes) -> None:
    made = answerer(redis.Redis(port=server.port))
    with pytest.raises(MillstreamError):
        await made.answer(Question("acme", "1", "small", body, LATER), never)
    made.close()


async def test_a_record_of_another_tenant_is_rejected(server: RedisServer) -> None:
    made = answerer(redis.Redis(port=server.port))
    with pytest.raises(Rejected) as raised:
        await made.answer(question(history(54)[0], tenant="other"), never)
    assert "/tenant" in raised.value.fields
    made.close()
