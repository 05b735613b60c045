"""What the tests of asking start and kill: `python -m tests.asking.processes KIND DOMAIN [PAUSE_MS]`.

`gateway`: a gateway that serves the small pipeline. `scoring`: the answering process with a model that is a
formula that takes PAUSE_MS; `levels`: the same, where a version has 0.2 s to answer and then "review" is
decided. `echo`: an answering host whose answers take as long as the payment's amount says, in milliseconds;
it notes in Redis, under `echo:DOMAIN`, what it began, finished and was cancelled in. `cached-gateway` and
`versions`: a gateway that gives answers again for a minute, and the answering process with a formula of any
version, of a model that has the domain's name. `site-gateway DOMAIN DOMAIN`: a gateway of two of them, of the
demand pipeline, and of prompts. `breaking FILE`: the answering process with a model that raises while the
file exists.
"""

import asyncio
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import redis
import uvloop

from core.clock import SystemClock
from core.ids import new_id
from core.settings import settings
from core.telemetry.probe import Probe, ProbeServer
from gateway.main import run as serve
from jobs.worker.answering.main import AnsweringHost, stopped_by_signal
from jobs.worker.answering.main import run as answer
from operators.asking import Answer, Emit, Question
from operators.ports import Matrix, Scorer
from pipelines.load import load_plan
from pipelines.plan import Infer, Levels, Reuse, ScoringPlan
from tests.jobs.worker.payments import Formula, plan
from tests.jobs.worker.worker_process import Source

PIECE_S = 0.02


class Echo:
    """Every answer is different, so that a repeat that was worked twice shows."""

    def __init__(self, domain: str) -> None:
        self._notes = redis.Redis.from_url(settings().redis.address)
        self._key = f"echo:{domain}"

    async def answer(self, question: Question, emit: Emit) -> Answer:
        body = msgspec.json.decode(question.body)
        self._note("began", question.id)
        try:
            pieces = int(body["card_id"].partition("pieces-")[2] or 0)
            for number in range(pieces if question.streamed else 0):
                await emit(f"{number}\n".encode())
                await asyncio.sleep(PIECE_S)
            await asyncio.sleep(body["amount_cents"] / 1000)
        except asyncio.CancelledError:
            self._note("cancelled", question.id)
            raise
        self._note("finished", question.id)
        said = {"id": question.id, "by": os.getpid(), "nonce": new_id(), "card": body["card_id"]}
        return Answer(200, msgspec.json.encode(said))

    def _note(self, what: str, id: str) -> None:
        try:
            self._notes.rpush(self._key, f"{what} {id}")
        except redis.RedisError:
            time.sleep(0)


class Versions:
    """Any version there may be."""

    def champion(self) -> str:
        return "1"

    def load(self, version: str) -> Scorer:
        return Formula(version)


def own_model(domain: str) -> ScoringPlan:
    """The pipeline with a model of its own, whose answers are given again."""
    return replace(plan(domain), infer=Infer(domain, batch=64), reuse=Reuse(timedelta(minutes=1)))


class Breaking(Formula):
    """Good, but while the file exists."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def score(self, matrix: Matrix) -> Matrix:
        self.broken = self._file.exists()
        return super().score(matrix)

    def check(self) -> None:
        self.broken = self._file.exists()
        super().check()


class OneThatBreaks(Versions):
    def __init__(self, file: Path) -> None:
        self._file = file

    def load(self, version: str) -> Scorer:
        del version
        return Breaking(self._file)


async def echo(domain: str) -> None:
    made, stop = plan(domain), stopped_by_signal()
    probe = Probe()
    server = ProbeServer(probe).start()
    host = AnsweringHost(
        settings(), domain, made.requests, clock=SystemClock(), probe=probe, stop=stop, ordered=True
    )
    await host.run(Echo(domain))
    probe.close()
    server.stop()


if __name__ == "__main__":
    kind, domain, *more = sys.argv[1:]
    if kind == "gateway":
        serve(settings(), {domain: plan(domain)})
    elif kind == "cached-gateway":
        serve(settings(), {domain: own_model(domain)})
    elif kind == "versions":
        answer(own_model(domain), settings(), source=Versions())
    elif kind == "site-gateway":
        plans = {name: plan(name) for name in (domain, *more)} | {"demand": load_plan("demand")}
        serve(settings(), plans, llm=True)
    elif kind == "breaking":
        answer(plan(domain), settings(), source=OneThatBreaks(Path(more[0])))
    elif kind == "echo":
        uvloop.run(echo(domain))
    elif kind == "levels":
        within = timedelta(seconds=0.2)
        made = replace(plan(domain), levels=Levels(within, within, decision="review"))
        answer(made, settings(), source=Source(float(more[0]) / 1000))
    else:
        answer(plan(domain), settings(), source=Source(float(more[0]) / 1000))
