"""Pushing: from a result on Kafka to its frame at the client, 200 sockets which all follow all results.

A status change is made with the time in its id, encoded, and produced with `acks=all`; the time ends where
the frame has been read. Producer and clients (`bench.websocket_load`, a process of its own) are the same for
both servers; the peer is a loop behind FastAPI that sends what an aiokafka consumer gives it to every socket.
First both push the same 200 changes, and what the clients have of them is compared.

`push_p50_ms`, `push_p99_ms`: ours at 1,000 events/s, each to each of the 200 sockets. `push_rate`: the
highest rate, in steps of 2^(1/4), at which 99 of 100 frames are there within 100 ms and none is missing: ours
over the peer's.

    python -m bench.gateway_push
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import uvloop

from bench.gateway_goals import reached
from bench.gateway_peer import KEY, PEER_VERSIONS, peer_service
from bench.gateway_publish import note, processor
from bench.harness import ROUNDS, BenchResult, require_equal, versions
from bench.own_services import job, own_services
from bench.registry import text
from bench.websocket_load import SETTLE_S, Came, Sockets, Specification
from core.ids import new_id
from core.settings import LOOPBACK, Settings
from gateway.keys import create_key
from gateway.push.frames import SUBPROTOCOL
from pipelines.changes import apply
from pipelines.load import load_scoring
from pipelines.plan import ScoringPlan
from schemas.broker import producer
from schemas.catalog.decisions import Decision, StatusChange
from schemas.codec import RecordCodec
from schemas.keys import key_of
from schemas.registry import SchemaRegistry

SOCKETS, RATE, STEADY_S, TRIAL_S, WARM_S = 200, 1_000.0, 8.0, 3.0, 1.0
BOUND_MS, STEP, FIRST_RATE = 100.0, 2**0.25, 64.0
COMPARED = 200
TENANT = "bench"


class Results:
    """Makes status changes as the writer does."""

    def __init__(self, given: Settings, plan: ScoringPlan) -> None:
        self._codec = RecordCodec(StatusChange, SchemaRegistry.of(given), plan.status.subject)
        self._producer = producer(given, linger_ms=0)
        self._topic = plan.status.name
        self._failed: list[Any] = []

    def push(self, rate: float, seconds: float) -> int:
        """So many were made at this rate."""
        count = round(rate * seconds)
        begun = time.perf_counter()
        for number in range(count):
            while (wait_s := begun + number / rate - time.perf_counter()) > 0:
                time.sleep(wait_s)  # poll() with less than a millisecond would spin, for nearly a core
            self._producer.poll(0)
            self.one(str(time.time_ns()), f"card-{number % 1000}")
        require_equal("results that Kafka has not", (self._producer.flush(30), self._failed), (0, []))
        return count

    def one(self, id: str, card: str) -> None:
        now = datetime.now(UTC)
        result = Decision(
            tenant=TENANT, id=id, entity=card, occurred_at=now, pipeline="fraud", score=7.5,
            decision="confirm", status="confirmed", model="fraud", model_version="1", decided_at=now,
            received_at=now, enriched_at=now, assignment_unit=card, feature_time=now, source="bench",
            queue_ms=1.5, model_ms=0.5, decide_ms=0.25,
        )  # fmt: skip
        change = StatusChange(
            tenant=TENANT, id=id, entity=card, occurred_at=now, pipeline="fraud", status="confirmed", rank=1,
            changed_at=now, result=result,
        )  # fmt: skip
        self._producer.produce(
            self._topic,
            value=self._codec.encode(change),
            key=key_of(TENANT, id),
            on_delivery=lambda error, _: self._failed.append(error) if error else None,
        )


def bench(steady_s: float = STEADY_S, trial_s: float = TRIAL_S, rounds: int = ROUNDS) -> BenchResult:
    """Ratios `push_p50_ms`, `push_p99_ms`, `push_rate`."""
    with ExitStack() as exits:
        running = exits.enter_context(own_services())
        given, plan = running.settings, load_scoring("fraud")
        apply([plan], given)
        ours = exits.enter_context(job("gateway", "--pipeline", "fraud"))
        theirs = exits.enter_context(peer_service(given, plan))
        key, results = create_key(given, TENANT), Results(given, plan)
        arms = {"ours": _ours(ours.port, key), "FastAPI": _theirs(theirs.port)}
        pids = {"ours": ours.pid, "FastAPI": theirs.pid}
        uvloop.run(_require_same(results, arms))
        figures: dict[str, list[float]] = {}

        def measured(name: str, rate: float, seconds: float) -> Came | None:
            """None where frames are missing."""
            with Sockets(arms[name]) as sockets:
                sockets.came(results.push(rate, WARM_S))
                before = processor({name: pids[name]})[name]
                count = results.push(rate, seconds)
                came = sockets.came(count)
                spent = processor({name: pids[name]})[name] - before
            note(
                figures, f"{name}, processor of itself: us/frame", spent / max(came.least, 1) / SOCKETS * 1e6
            )
            return came if came.least == came.most == count else None

        def highest(name: str, start: float) -> float:
            def kept(rate: float) -> bool:
                came = measured(name, rate, trial_s)
                return came is not None and came.p99_ms < BOUND_MS

            found = highest_rate(kept, start)
            note(figures, f"{name}, highest rate: events/s", found)
            return found

        last = {name: highest(name, FIRST_RATE) for name in arms}
        figures.clear()
        middles, highs, rates = [], [], []
        for _ in range(rounds):
            found = []
            for name in ("FastAPI", "ours", "ours", "FastAPI"):
                last[name] = highest(name, last[name])
                found.append(last[name])
            rates.append((found[1] + found[2]) / (found[0] + found[3]))
            came = measured("ours", RATE, steady_s)
            middles.append(came.p50_ms if came else SETTLE_S * 1e3)  # as late as was waited for
            highs.append(came.p99_ms if came else SETTLE_S * 1e3)
            if came:
                frames_of_one = came.least * SOCKETS / came.messages
                note(figures, "ours, 1,000 events/s: frames of one message", frames_of_one)
    return BenchResult(
        bench="gateway-push",
        ratios=[reached("push_p50_ms", middles), reached("push_p99_ms", highs), reached("push_rate", rates)],
        versions=versions(("httptools", "msgspec", "confluent-kafka"), **PEER_VERSIONS),
        sizes={"sockets": SOCKETS, "seconds at 1,000/s": steady_s, "seconds of a trial": trial_s},
        figures={name: statistics.median(values) for name, values in figures.items()},
    )


def highest_rate(kept: Callable[[float], bool], start: float) -> float:
    """The highest rate on the ladder through `start` that is kept, where it is the neighbour of one that is
    not. A rate that is not kept is tried a second time; 0 where none from one event a second on is."""

    def tried(rate: float) -> bool:
        return kept(rate) or kept(rate)

    rate = start
    if tried(rate):
        while tried(rate * STEP):
            rate *= STEP
        return rate
    while rate >= 1.0:
        rate /= STEP
        if tried(rate):
            return rate
    return 0.0


def _ours(port: int, key: str) -> Specification:
    return Specification(
        port, SOCKETS,
        headers=(f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",),
        frames=(
            f'{{"type":"connect","token":"{key}","batched":true}}',
            '{"type":"subscribe","channel":"results","pipeline":"fraud"}',
        ),
        ready='"subscribed"',
        event='"type":"event"',
        id='"id":"([0-9]{19})","positions"',
    )  # fmt: skip


def _theirs(port: int) -> Specification:
    return Specification(
        port, SOCKETS,
        headers=(f"Authorization: Bearer {KEY}",),
        frames=(),
        ready="",
        event='"type": "event"',
        id='"type": "event", "id": "([0-9]{19})"',
    )  # fmt: skip


async def _require_same(results: Results, arms: dict[str, Specification]) -> None:
    """Both push the same changes, of the same content."""
    found = []
    async with aiohttp.ClientSession() as session:
        sockets = []
        for given in arms.values():
            headers = dict(line.split(": ", 1) for line in given.headers)
            protocols = [headers.pop("Sec-WebSocket-Protocol")] if "Sec-WebSocket-Protocol" in headers else ()
            address = f"ws://{LOOPBACK}:{given.port}/api/v1/stream"
            socket = await session.ws_connect(address, headers=headers, protocols=protocols)
            for frame in given.frames:
                await socket.send_str(frame)
            while given.ready and given.ready not in await socket.receive_str():
                pass
            sockets.append(socket)
        run = new_id()
        for number in range(COMPARED):
            results.one(f"{run}-{number}", f"card-{number}")
        for socket in sockets:
            events: dict[str, Any] = {}
            while len(events) < COMPARED:
                said = msgspec.json.decode(await socket.receive_str(timeout=30))
                for frame in said if isinstance(said, list) else [said]:
                    events[frame["id"]] = _content(frame["data"])
            found.append(events)
            await socket.close()
    require_equal("what was pushed", *found)


def _content(data: dict[str, Any]) -> dict[str, Any]:
    """The data, with times as they were before each side wrote them in its own way."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return _content(value)
        if isinstance(value, str) and value[:2] == "20":
            return datetime.fromisoformat(value.replace(" ", "T"))
        return value

    return {name: plain(value) for name, value in data.items()}


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
