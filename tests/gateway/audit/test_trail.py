"""The trail of a gateway over a writer whose topic is a list."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Literal

import pytest

from core.audit_settings import Audit
from core.clock import ManualClock
from core.errors import Unavailable
from gateway.audit.folding import REPEATS
from gateway.audit.trail import GatewayTrail
from pipelines.audit.entry import Chain
from pipelines.audit.event import AuditEvent
from pipelines.audit.writer import AuditWriter
from tests.gateway.samples import NOW
from tests.pipelines.audit.chains import event
from tests.pipelines.audit.log import Log

WITHIN_S = 20.0


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def writer(log: Log) -> Iterator[AuditWriter]:
    made = AuditWriter(Chain("test", host="host"), log, log, ManualClock(NOW), queue=100)  # type: ignore[arg-type]
    made.start()
    yield made
    log.away = False
    made.close(WITHIN_S)


def refusal(address: str = "192.0.2.7") -> AuditEvent:
    return AuditEvent("", "", "login", "denied", NOW, reason="unauthenticated", detail={"address": address})


async def test_what_is_written_is_kept_when_it_returns(writer: AuditWriter, log: Log) -> None:
    trail = GatewayTrail(writer, Audit(), ManualClock(NOW))
    await asyncio.gather(*(trail.written(event(n)) for n in range(50)))
    assert len(log.arrived) == 51


async def test_what_cannot_be_kept_is_refused_and_what_was_done_already_is_told_later(
    writer: AuditWriter, log: Log
) -> None:
    trail = GatewayTrail(writer, Audit(kept_s=0.05), ManualClock(NOW))
    log.away = True
    with pytest.raises(Unavailable) as refused:
        await trail.written(event(1))
    assert refused.value.code == "audit_unavailable"
    await trail.finished(event(2))
    log.away = False
    await asyncio.to_thread(writer.close, WITHIN_S)
    assert {one.target for one in log.arrived} >= {"fraud:1", "fraud:2"}


async def test_while_kafka_is_known_to_be_away_nothing_is_even_tried(writer: AuditWriter, log: Log) -> None:
    def away() -> None:
        raise Unavailable("no broker answers", code="kafka_unavailable")

    trail = GatewayTrail(writer, Audit(), ManualClock(NOW), away)
    with pytest.raises(Unavailable, match="no broker answers") as refused:
        await trail.written(event())
    assert refused.value.code == "audit_unavailable"
    writer.close(WITHIN_S)
    assert log.arrived == []


async def test_equal_refusals_are_one_entry_and_a_number(writer: AuditWriter, log: Log) -> None:
    clock = ManualClock(NOW)
    trail = GatewayTrail(writer, Audit(), clock)
    for _ in range(40):
        trail.note(refusal())
    clock.advance(timedelta(seconds=11))
    trail.note(refusal("198.51.100.1"))
    trail.tell_rest()
    await asyncio.to_thread(writer.close, WITHIN_S)
    told = [(one.detail["address"], one.detail.get(REPEATS)) for one in log.arrived if one.action == "login"]
    assert told == [("192.0.2.0/24", None), ("192.0.2.0/24", "39"), ("198.51.100.0/24", None)]


@pytest.mark.parametrize(
    ("how", "kept"),
    [("network", {"address": "192.0.2.0/24"}), ("whole", {"address": "192.0.2.7"}), ("none", {})],
)
async def test_of_an_address_is_kept_what_the_settings_say(
    writer: AuditWriter, log: Log, how: Literal["network", "whole", "none"], kept: dict[str, str]
) -> None:
    trail = GatewayTrail(writer, Audit(addresses=how), ManualClock(NOW))
    trail.note(refusal())
    trail.tell_rest()
    await asyncio.to_thread(writer.close, WITHIN_S)
    assert log.arrived[1].detail == kept
