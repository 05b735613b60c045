"""Damaged messages on the events topic: each is dead-lettered once with its reason, and the rest go on."""

import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.dead_letters import DeadLetters
from schemas.broker import producer
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry
from tests.integration.scenario import Deployed, Scenario

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


def letters(deployed: Deployed, mark: bytes) -> list[Any]:
    found = DeadLetters(deployed.settings).newest([deployed.plan.source.name], limit=200)
    return [entry.letter for entry in found if entry.letter.key == mark]


def eventually(told: Callable[[], bool], within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if told():
            return True
        time.sleep(0.2)
    return False


def good_value(deployed: Deployed) -> bytes:
    """A value as the gateway publishes it."""
    from jobs.sources.generated import generate

    record = deployed.plan.source.record
    assert record is not None
    registry = SchemaRegistry.of(deployed.settings)
    codec = RecordCodec(record, registry, deployed.plan.source.subject)
    (value,) = codec.encode_batch(
        generate(100, seed=9).select(list(codec.columns.names)).slice(0, 1).combine_chunks().to_batches()[0]
    )
    registry.close()
    return value


def test_each_kind_of_damage_is_dead_lettered_once_and_good_events_go_on(deployed: Deployed) -> None:
    good = good_value(deployed)
    damaged = {
        "not_avro": b'{"id": 1}',
        "unknown_schema": b"\x00" + struct.pack(">I", 987_654) + good[5:],
        "truncated": good[: len(good) // 2],
    }
    mark = b"test|damaged-" + str(time.monotonic_ns()).encode()
    source = deployed.plan.source
    sender = producer(deployed.settings)
    offsets = {}

    def landed(code: str) -> Callable[[Any, Any], None]:
        def delivered(error: Any, message: Any) -> None:
            assert error is None, error
            offsets[code] = (message.partition(), message.offset())

        return delivered

    now = int(time.time() * 1000)
    for code, value in damaged.items():
        sender.produce(source.name, key=mark, value=value, timestamp=now, on_delivery=landed(code))
    assert sender.flush(10) == 0

    outcome = Scenario(deployed, events=300, rate=150, seed=6).run()
    outcome.check()

    assert eventually(lambda: len(letters(deployed, mark)) >= len(damaged)), letters(deployed, mark)
    found = letters(deployed, mark)
    assert sorted(letter.code for letter in found) == sorted(damaged)
    for letter in found:
        assert letter.value == damaged[letter.code]
        assert (letter.topic, letter.stage) == (source.name, "decode")
        assert (letter.partition, letter.offset) == offsets[letter.code]
        assert letter.reason


def test_the_flink_job_survives_damage_without_a_restart(deployed: Deployed) -> None:
    from jobs.on_flink.rest import FlinkRest

    rest = FlinkRest(deployed.settings.flink.address)
    before = {job.id for job in rest.jobs(deployed.plan.pipeline) if not job.ended}
    sender = producer(deployed.settings)
    for _ in range(20):
        sender.produce(deployed.plan.source.name, key=b"test|noise", value=b"\x00noise")
    assert sender.flush(10) == 0
    Scenario(deployed, events=100, rate=100, seed=7).run().check()
    after = {job.id for job in rest.jobs(deployed.plan.pipeline) if not job.ended}
    rest.close()
    assert before == after
