"""Headers of events and of dead letters."""

from datetime import UTC, datetime
from typing import Any

import pytest

from core.clock import ManualClock, to_millis
from core.errors import DeclarationError
from schemas.dead_letters import REASON_LIMIT, DeadLetter, dead_letter
from schemas.headers import event_headers, header

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


class Message:
    def __init__(self, topic: str, headers: Any, key: Any = b"k", value: Any = b"\0v") -> None:
        self._topic, self._headers, self._key, self._value = topic, headers, key, value

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 41

    def key(self) -> Any:
        return self._key

    def value(self) -> Any:
        return self._value

    def headers(self) -> Any:
        return self._headers


class Producer:
    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def produce(self, topic: str, *args: Any, **kwargs: Any) -> None:
        self.sent.append((topic, kwargs))


def test_an_event_carries_the_cloudevents_attributes() -> None:
    headers = event_headers(
        id="é1",
        source="key-7",
        type="Transaction",
        time=AT,
        tenant="bank",
        received_at=AT,
        traceparent="00-a-b-01",
    )
    assert headers[0] == ("ce_specversion", b"1.0")
    assert header(headers, "ce_id") == "é1"
    assert header(headers, "ce_time") == "2026-01-02T03:04:05.678Z"
    assert header(headers, "ce_receivedat") == "1767323045678"
    assert header(headers, "content-type") == "application/avro"
    assert header(headers, "deadline") is None


def test_a_header_never_fails_a_message() -> None:
    assert header(None, "x") is None
    assert header([("x", None)], "x") == ""
    assert header([("x", b"\xff")], "x") == "\ufffd"
    assert header([("x", b"1"), ("x", b"2")], "x") == "2"


def test_a_dead_letter_keeps_the_original_and_says_why() -> None:
    producer = Producer()
    original = Message("a.b.events.v1", [("ce_id", b"1")], key=None, value=b"\x01junk")
    dead_letter(producer, original, "not_avro", "first byte", "decode", "worker", clock=ManualClock(AT))
    ((topic, sent),) = producer.sent
    assert topic == "a.b.events.v1.dlq"
    read = DeadLetter.read(Message(topic, sent["headers"], sent["key"], sent["value"]))
    assert read == DeadLetter(
        key=None, value=b"\x01junk", headers=[("ce_id", b"1")], reason="first byte", code="not_avro",
        stage="decode", topic="a.b.events.v1", partition=3, offset=41, at="2026-01-02T03:04:05.678Z",
        job="worker",
    )  # fmt: skip


def test_a_requeued_letter_that_fails_again_does_not_grow() -> None:
    producer = Producer()
    dead_letter(producer, Message("t.d.events.v1", [("a", b"1")]), "c", "one", "model", "j")
    first = producer.sent[0][1]["headers"]
    dead_letter(producer, Message("t.d.events.v1", first), "c", "two", "model", "j")
    second = producer.sent[1][1]["headers"]
    assert len(second) == len(first)
    assert header(second, "dlq_reason") == "two"


def test_requeue_sends_the_original_to_where_it_came_from() -> None:
    producer = Producer()
    given = [("ce_time", b"2026-01-02T03:04:05.678Z")]
    dead_letter(producer, Message("t.d.events.v1", given), "c", "r", "model", "j")
    DeadLetter.read(Message("t.d.events.v1.dlq", producer.sent[0][1]["headers"])).requeue(producer, "by hand")
    topic, sent = producer.sent[1]
    assert topic == "t.d.events.v1"
    marked = [*given, ("dlq_requeued", b"by hand")]
    event_time = to_millis(AT)
    assert sent == {"key": b"k", "value": b"\0v", "headers": marked, "timestamp": event_time}


@pytest.mark.parametrize("told", [None, b"yesterday", b"2026-01-02T03:04:05", b"1066-10-14T09:00:00Z"])
def test_a_requeued_letter_that_tells_no_event_time_gets_none(told: bytes | None) -> None:
    producer = Producer()
    given = [] if told is None else [("ce_time", told)]
    dead_letter(producer, Message("t.d.events.v1", given), "c", "r", "model", "j")
    letter = DeadLetter.read(Message("t.d.events.v1.dlq", producer.sent[0][1]["headers"]))
    assert letter.timestamp_ms is None
    letter.requeue(producer, "by hand")
    assert "timestamp" not in producer.sent[1][1]


def test_a_long_reason_is_cut() -> None:
    producer = Producer()
    dead_letter(producer, Message("t.d.events.v1", None), "c", "x" * 100_000, "model", "j")
    reason = header(producer.sent[0][1]["headers"], "dlq_reason")
    assert reason is not None
    assert len(reason) == REASON_LIMIT


def test_what_is_no_dead_letter_is_refused() -> None:
    with pytest.raises(DeclarationError, match="dlq_reason"):
        DeadLetter.read(Message("t.d.events.v1.dlq", [("ce_id", b"1")]))
