"""Dead-letter topics on a real broker: listed newest first, shown whole, sent back unchanged."""

from typing import Any

import pytest

from core.errors import Rejected, UnknownName
from core.settings import settings
from pipelines.dead_letters import DeadLetters, parse_reference
from schemas.dead_letters import dead_letter
from schemas.headers import header
from stack.local import Stack
from tests.jobs.writer.deployed import Deployed
from tests.jobs.writer.samples import FakeMessage


def test_a_reference_is_read_back_and_nonsense_is_rejected() -> None:
    assert parse_reference("a.b.events.v1.dlq:0:17") == ("a.b.events.v1.dlq", 0, 17)
    for nonsense in ("", "topic", "topic:1", "topic:x:1", "topic:1:-1", ":1:1"):
        with pytest.raises(Rejected):
            parse_reference(nonsense)


@pytest.fixture
def deployed(stack: Stack) -> Deployed:
    made = Deployed(stack.settings)
    for number in range(5):
        message = FakeMessage(
            number,
            bytes([0, 255, number]),
            at_partition=1,
            on_topic=made.plan.source.name,
            named=b"acme|card",
            with_headers=[("ce_id", b"e%d" % number), ("ce_time", b"2026-01-02T03:04:05.678Z")],
        )
        code = "truncated" if number == 3 else "not_avro"
        dead_letter(made._producer, message, code, f"reason {number}", "decode", "test")
    assert made._producer.flush(30) == 0
    return made


@pytest.mark.services
def test_the_newest_come_first_and_by_code(deployed: Deployed) -> None:
    letters = DeadLetters(settings())
    source = deployed.plan.source.name
    found = letters.newest([source])
    assert [entry.letter.offset for entry in found] == [4, 3, 2, 1, 0]
    assert {(e.letter.topic, e.letter.partition, e.letter.stage) for e in found} == {(source, 1, "decode")}
    assert [entry.letter.offset for entry in letters.newest([source], limit=2)] == [4, 3]
    assert [entry.letter.offset for entry in letters.newest([source], code="truncated")] == [3]
    assert letters.newest([deployed.plan.results.dlq.name]) == []


@pytest.mark.services
def test_one_is_shown_whole_and_what_is_not_there_is_told(deployed: Deployed) -> None:
    letters = DeadLetters(settings())
    entry = letters.newest([deployed.plan.source.name])[1]
    again = letters.show(entry.reference)
    assert again == entry
    assert (again.letter.value, again.letter.key, again.letter.code) == (
        b"\x00\xff\x03",
        b"acme|card",
        "truncated",
    )
    assert again.letter.headers[0] == ("ce_id", b"e3")
    with pytest.raises(UnknownName):
        letters.show(f"{entry.topic}:0:99")
    with pytest.raises(UnknownName, match="did you mean"):
        letters.newest([deployed.plan.source.name + "x"])


@pytest.mark.services
def test_requeued_letters_are_the_originals_with_one_mark(deployed: Deployed) -> None:
    letters = DeadLetters(settings())
    chosen = letters.newest([deployed.plan.source.name])[:2]
    letters.requeue([entry.reference for entry in chosen])
    back: list[Any] = sorted(deployed.messages(deployed.plan.source), key=lambda m: m.value())
    assert [m.value() for m in back] == [b"\x00\xff\x03", b"\x00\xff\x04"]
    for message, entry in zip(back, reversed(chosen), strict=True):
        assert message.key() == b"acme|card"
        assert (header(message.headers(), "dlq_requeued") or "").startswith(entry.reference)
        assert header(message.headers(), "ce_id") == header(entry.letter.headers, "ce_id")
        assert header(message.headers(), "dlq_reason") is None
        assert message.timestamp()[1] == 1_767_323_045_678, "the event's time, not that of requeueing"
    with pytest.raises(UnknownName):
        letters.requeue([chosen[0].reference, f"{chosen[0].topic}:0:999"])
    assert len(deployed.messages(deployed.plan.source)) == 2, "nothing is sent when one is not there"
