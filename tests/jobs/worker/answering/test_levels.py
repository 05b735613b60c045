"""Levels of asked scoring: what is in service, the version before it, a declared decision, each in time."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import redis

from core.clock import SystemClock, from_millis
from core.errors import DeadlineExceeded, MillstreamError, Unavailable
from jobs.worker.answering.asked_step import AskedStep
from jobs.worker.answering.scoring import ScoringAnswerer
from jobs.worker.main import OnlineFeatures
from jobs.worker.scoring import Declared
from jobs.worker.serving import Serving
from operators.asking import Question
from operators.error_rates import ONE_MINUTE, ErrorRates
from operators.ports import Matrix
from pipelines.plan import Levels
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.models import Route, Routing
from tests.features.redis_server import RedisServer, own_redis
from tests.jobs.worker.payments import BANDS, BREAKS, START, VIEW, Formula, Payment, expected, plan

pytestmark = pytest.mark.services
CLOCK = SystemClock()
LATER = datetime.now(UTC) + timedelta(hours=1)
SOON, LONG = timedelta(milliseconds=150), timedelta(seconds=60)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as made:
        yield made


class Hanging(Formula):
    """Waits while it is held; every call notes its rows."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.go_on = threading.Event()
        self.go_on.set()
        self.calls: list[int] = []

    def score(self, matrix: Matrix) -> Matrix:
        self.calls.append(len(matrix))
        assert self.go_on.wait(60)
        return super().score(matrix)


class Source:
    """Versions 1 to 3, each loaded once."""

    def __init__(self) -> None:
        self.versions = {version: Hanging(version) for version in "123"}

    def champion(self) -> str:
        return "1"

    def load(self, version: str) -> Formula:
        return self.versions[version]


def routing(revision: int, champion: str, previous: str | None, **more: Any) -> Routing:
    return Routing(
        tenant=SYSTEM_TENANT,
        id=f"formula:{revision}",
        model="formula",
        revision=revision,
        routes=[Route(champion)],
        salt="s",
        previous=previous,
        decided_at=CLOCK.now(),
        **more,
    )


class World:
    def __init__(self, server: RedisServer, levels: Levels, previous: str | None = "1") -> None:
        self.source = Source()
        self.serving = Serving(self.source, pipeline="small", model="formula", first_batches=0)
        self.serving.start(routing(1, "2", previous))
        made = replace(plan(), levels=levels)
        declared = Declared("small", "card_id", "occurred_at", VIEW.feature_names, BANDS, batch=64)
        client = redis.Redis(port=server.port)
        self.rates = ErrorRates("small", CLOCK)
        self.answerer = ScoringAnswerer(
            made,
            lambda fields: AskedStep(declared, fields, clock=CLOCK, reader=OnlineFeatures(client, made)),
            self.serving,
            batch=64,
            clock=CLOCK,
            rates=self.rates,
        )
        self.numbers = iter(range(10_000))

    async def ask(self, amount: int = 1900) -> dict[str, Any]:
        number = next(self.numbers)
        record = Payment(
            tenant="acme", id=f"p-{number}", card_id=f"c-{number}", occurred_at=from_millis(START),
            amount_cents=amount,
        )  # fmt: skip
        question = Question("acme", f"ask-{number}", "small", msgspec.json.encode(record), LATER)

        async def never(piece: bytes) -> None:
            raise AssertionError("nothing is streamed")

        answer = await self.answerer.answer(question, never)
        assert answer.status == 200
        body: dict[str, Any] = json.loads(answer.body)
        assert body["id"] == f"ask-{number}"
        return body

    def failed(self) -> dict[str, int]:
        return dict(self.rates.counted("infer", ONE_MINUTE).failed)


@contextmanager
def world(server: RedisServer, levels: Levels, previous: str | None = "1") -> Iterator[World]:
    made = World(server, levels, previous)
    try:
        yield made
    finally:
        for version in made.source.versions.values():
            version.go_on.set()
        made.answerer.close()


def told(body: dict[str, Any]) -> tuple[Any, ...]:
    return body["model_version"], body["level"], body["degraded"]


async def test_the_version_in_service_answers_and_nothing_is_degraded(server: RedisServer) -> None:
    with world(server, Levels(decision="review")) as here:
        body = await here.ask(1900)
        assert told(body) == ("2", "live", False)
        assert body["warning"] is None
        assert body["decision"] == expected(1900)[1]


async def test_a_version_that_hangs_is_answered_for_by_the_one_before_it(server: RedisServer) -> None:
    with world(server, Levels(live=SOON, previous_version=LONG, decision="review")) as here:
        here.source.versions["2"].go_on.clear()
        first = await here.ask(9000)
        assert told(first) == ("1", "previous_version", True)
        assert (first["score"], first["decision"]) == (pytest.approx(expected(9000)[0], rel=1e-6), "block")
        assert first["warning"] == "answered by previous_version: version 2 took longer than 150 ms"
        again = await here.ask()
        assert told(again) == ("1", "previous_version", True)
        assert "an earlier call of the model has not returned" in again["warning"]
        assert here.source.versions["2"].calls == [1], "it is left alone while it hangs"
        assert here.failed() == {"deadline_exceeded": 1, "model_unavailable": 1}
        here.source.versions["2"].go_on.set()
        async with asyncio.timeout(60):
            while told(await here.ask()) != ("2", "live", False):
                await asyncio.sleep(0.01)
        assert here.serving.current.champion.meter.errors >= 1, "it counts against its health"


async def test_another_version_in_service_is_asked_while_the_earlier_one_hangs(server: RedisServer) -> None:
    with world(server, Levels(live=timedelta(seconds=2), previous_version=LONG)) as here:
        here.source.versions["2"].go_on.clear()
        assert told(await here.ask()) == ("1", "previous_version", True)
        here.serving.follow(routing(2, "3", "1"))
        assert told(await here.ask()) == ("3", "live", False)


async def test_one_that_breaks_is_replaced_and_answered_for_at_once(server: RedisServer) -> None:
    with world(server, Levels(live=LONG, previous_version=LONG)) as here:
        here.source.versions["2"].broken = True
        body = await here.ask(500)
        assert told(body) == ("1", "previous_version", True)
        assert "version 2" in body["warning"]
        states = {state.version: state.state for state in here.serving.told("here")}
        assert states["2"] == "failed"
        assert here.serving.current.version == "1"
        assert told(await here.ask()) == ("1", "previous_version", True)


async def test_where_no_version_answers_the_declared_decision_does(server: RedisServer) -> None:
    with world(server, Levels(live=SOON, previous_version=SOON, decision="review")) as here:
        for version in "12":
            here.source.versions[version].go_on.clear()
        for _ in range(2):
            body = await here.ask(9000)
            assert told(body) == (None, "static", True)
            assert (body["score"], body["decision"], body["reasons"]) == (None, "review", [])
            assert body["warning"].startswith("answered by static: version 2")
            assert (body["entity"], body["record_id"]) == (f"c{body['record_id'][1:]}", body["record_id"])


async def test_without_one_it_is_the_first_levels_error(server: RedisServer) -> None:
    with world(server, Levels(live=SOON, previous_version=SOON), previous=None) as here:
        here.source.versions["2"].go_on.clear()
        with pytest.raises(DeadlineExceeded):
            await here.ask()
        with pytest.raises(Unavailable) as raised:
            await here.ask()
        assert raised.value.code == "model_unavailable"


async def test_what_no_version_can_score_is_refused_and_not_decided_by_default(server: RedisServer) -> None:
    with world(server, Levels(decision="review")) as here:
        answers = await asyncio.gather(
            *(here.ask(amount) for amount in (1900, BREAKS, 500)), return_exceptions=True
        )
        assert [isinstance(answer, dict) for answer in answers] == [True, False, True]
        assert isinstance(answers[1], MillstreamError)
        assert answers[1].code == "not_scored"
