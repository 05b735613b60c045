"""Publishing: `POST` of an event to 202, against FastAPI, uvicorn and aiokafka doing the same.

Both check the key (known to them), count the request against limits in Redis, check the payment's 120
columns, remember its id with the digest of its content, so that a repeat with other content is refused with
409, write it as Avro with an idempotent producer and `acks=all`, and answer when Kafka has it. The peer
(`bench.gateway_peer_service`) has one limit where ours has five.

First 200 payments go to both, and what is on the topic is compared: the same records on the same partitions;
then both are shown to refuse the same: a bad key, a wrong type, a field too many, a time that is too old,
another body under the same id. The load is 64 callers of `bench.http_load`, in a process of its own.

    python -m bench.gateway_publish
"""

import asyncio
import json
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import msgspec
import psutil
from confluent_kafka import TopicPartition

from bench.gateway_goals import reached
from bench.gateway_payments import EVENTS, bodies, posts
from bench.gateway_peer import KEY, PEER_VERSIONS, TENANT, peer_service
from bench.harness import ROUNDS, BenchResult, control, require_equal, versions
from bench.http_load import Load, Specification, Summary, apart
from bench.own_services import job, own_services
from bench.registry import text
from core.ids import new_id
from core.settings import Settings
from gateway.keys import create_key
from pipelines.changes import apply
from pipelines.load import load_scoring
from pipelines.plan import ScoringPlan
from schemas.broker import consumer, watermarks
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry

CALLERS, BURST_S, COMPARED = 64, 3.0, 200
WARM = 4
"""Bursts of each before those that count: a fresh broker compiles itself for half a minute."""
OURS = "bench"


def bench(seconds: float = BURST_S, rounds: int = ROUNDS) -> BenchResult:
    """Ratio `publish`. `seconds` of each burst; four bursts a round."""
    with ExitStack() as exits:
        running = exits.enter_context(own_services())
        given, plan = running.settings, load_scoring("fraud")
        apply([plan], given)
        ours = exits.enter_context(job("gateway", "--pipeline", "fraud"))
        theirs = exits.enter_context(peer_service(given, plan))
        plain = exits.enter_context(peer_service(given, plan, remembers=False))
        key = create_key(given, OURS)
        require_same_events(given, plan, {OURS: (ours.port, key), TENANT: (theirs.port, KEY)})
        require_same_refusals({"ours": (ours.port, key), "theirs": (theirs.port, KEY)})
        sent = bodies(500)
        processes = running.processes()
        figures: dict[str, list[float]] = {}

        def burst(name: str, port: int, pid: int, with_key: str) -> Summary:
            asked = Specification(port, CALLERS, seconds, 202)
            before = processor(processes | {name: pid})
            found = apart(posts(port, EVENTS, with_key, sent), asked)
            spent = processor(processes | {name: pid})
            note(figures, f"{name}, requests/s", found.per_s)
            note(figures, f"{name}, p50 ms", found.p50_ms)
            note(figures, f"{name}, p99 ms", found.p99_ms)
            made = found.per_s * (seconds + asked.warm_s)
            for process, used in spent.items():
                of = "itself" if process == name else process
                note(figures, f"{name}, processor of {of}: us/request", (used - before[process]) / made * 1e6)
            return found

        def of_ours() -> float:
            return 1 / burst("ours", ours.port, ours.pid, key).per_s

        def of_theirs() -> float:
            return 1 / burst("FastAPI", theirs.port, theirs.pid, KEY).per_s

        for _ in range(WARM):
            of_ours(), of_theirs()
        figures.clear()
        found = []
        for _ in range(rounds):
            a1, b1, b2, a2 = of_theirs(), of_ours(), of_ours(), of_theirs()
            found.append((a1 + a2) / (b1 + b2))
            burst("FastAPI without remembering ids", plain.port, plain.pid, KEY)
        noise = control(of_ours, rounds=rounds)
    return BenchResult(
        bench="gateway-publish",
        ratios=[reached("publish", found)],
        versions=versions(("httptools", "msgspec", "confluent-kafka"), **PEER_VERSIONS),
        sizes={
            "callers": CALLERS, "seconds of a burst": seconds, "bytes of a payment": len(sent[0]),
            "columns": 120, "load": "bench.http_load",
        },
        figures={name: statistics.median(values) for name, values in figures.items()},
        control=noise,
    )  # fmt: skip


def require_same_events(given: Settings, plan: ScoringPlan, servers: Mapping[str, tuple[int, str]]) -> None:
    """Publish the same through each, by tenant, and compare what is on the topic."""
    run = new_id()
    ids = [f"{run}-{number}" for number in range(COMPARED)]
    sent = bodies(COMPARED, ids=ids)
    for port, key in servers.values():
        answers = asyncio.run(Load(port, posts(port, EVENTS, key, sent), connections=1).each())
        told = [json.loads(answer.body) for answer in answers]
        require_equal("statuses", {answer.status for answer in answers}, {202})
        require_equal("ids answered", [one["id"] for one in told], ids)
        require_equal("answers", {tuple(sorted(one)) for one in told}, {tuple(sorted(_ANSWER))})
    found = _on_the_topic(given, plan, set(ids))
    ours, theirs = (found[tenant] for tenant in servers)
    require_equal("ids on the topic", sorted(ours), sorted(ids))
    require_equal("events on the topic", ours, theirs)


_ANSWER = ("id", "status", "pipeline", "received_at")


def _on_the_topic(given: Settings, plan: ScoringPlan, ids: set[str]) -> dict[str, dict[str, Any]]:
    """By tenant and id, of these ids: each record but for its tenant. Raises InternalError where one is there
    twice."""
    topic = plan.source
    assert topic.record is not None
    codec: RecordCodec[Any] = RecordCodec(topic.record, SchemaRegistry.of(given), topic.subject)
    reader = consumer(given, None)
    found: dict[str, dict[str, Any]] = {}
    try:
        places = [TopicPartition(topic.name, partition, 0) for partition in range(topic.partitions)]
        left = sum(watermarks(reader, place, 10)[1] for place in places)
        reader.assign(places)
        while left > 0:
            for message in reader.consume(500, timeout=1.0):
                left -= 1
                record = msgspec.to_builtins(codec.decode(message.value()))
                if record["id"] not in ids:
                    continue
                of_tenant = found.setdefault(record.pop("tenant"), {})
                require_equal("published twice", record["id"] in of_tenant, False)
                of_tenant[record["id"]] = record
    finally:
        reader.close()
    return found


def require_same_refusals(servers: Mapping[str, tuple[int, str]]) -> None:
    """Each refuses what the other does, with the same status."""
    first = json.loads(bodies(1, ids=[new_id()])[0])
    late = first | {"occurred_at": "2020-01-01T00:00:00+00:00"}
    typed, more = first | {"amount_cents": "many"}, first | {"of_no_such_column": 1}
    asked = [(first, True), (first, True), (first | {"amount_cents": 1}, True), (first, False)]
    asked += [(late, True), (typed, True), (more, True)]
    found = []
    for port, key in servers.values():
        requests = [
            posts(port, EVENTS, key if known else "nobody", [json.dumps(body).encode()])[0]
            for body, known in asked
        ]
        answers = asyncio.run(Load(port, requests, connections=1).each())
        found.append([answer.status for answer in answers])
    require_equal("what is refused", found[0], found[1])
    require_equal("what is refused", found[0], [202, 202, 409, 401, 422, 422, 422])


def processor(processes: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds of each process so far."""
    return {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in processes.items()}


def note(figures: dict[str, list[float]], name: str, value: float) -> None:
    figures.setdefault(name, []).append(value)


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
