"""Kafka headers: CloudEvents attributes in binary mode, the W3C trace, request/response, dead letters.

All values are UTF-8 bytes. CloudEvents Kafka binding 1.0.2, W3C Trace Context.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from core.clock import to_millis

Headers = list[tuple[str, bytes]]
CONTENT_TYPE = "application/avro"
_CONTENT_TYPE = ("content-type", CONTENT_TYPE.encode())
DEAD_LETTER = "dlq_"
NOBODY: Mapping[str, str] = MappingProxyType({})
TICK = "millstream.tick"
"""`ce_type` of a message that has no value and only says how far event time has come."""


def event_headers(
    *,
    id: str,
    source: str,
    type: str,
    time: datetime,
    tenant: str,
    received_at: datetime,
    traceparent: str | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    deadline: datetime | None = None,
    caller: Mapping[str, str] = NOBODY,
) -> Headers:
    """The headers of one event. `source` is who sent it, `type` its record; times are timezone-aware.
    `caller` is what is known of whoever asked for it: attributes beside CloudEvents' own (`ce_user`)."""
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type.encode()),
        ("ce_time", rfc3339(time).encode()),
        ("ce_tenant", tenant.encode()),
        ("ce_receivedat", b"%d" % to_millis(received_at)),
        _CONTENT_TYPE,
    ]
    if traceparent is not None:
        headers.append(("traceparent", traceparent.encode()))
    if correlation_id is not None:
        headers.append(("correlation_id", correlation_id.encode()))
    if reply_to is not None:
        headers.append(("reply_to", reply_to.encode()))
    if deadline is not None:
        headers.append(("deadline", b"%d" % to_millis(deadline)))
    if caller:
        headers += [(f"ce_{name}", value.encode()) for name, value in caller.items()]
    return headers


def is_tick(message: Any) -> bool:
    """Whether a Kafka message is a tick: no event, nothing to handle, no dead letter."""
    return message.value() is None and header(message.headers(), "ce_type") == TICK


def dead_letter_headers(
    original: Any, *, reason: str, code: str, stage: str, topic: str, partition: int, offset: int,
    at: datetime, job: str,
) -> Headers:  # fmt: skip
    """The original headers, then why and where the message was given up. Of an earlier dead letter only
    the newest reason stays, so that a requeued message does not grow."""
    kept = [(name, value) for name, value in pairs_of(original) if not name.startswith(DEAD_LETTER)]
    added = {
        "reason": reason, "code": code, "stage": stage, "topic": topic, "partition": str(partition),
        "offset": str(offset), "at": rfc3339(at), "job": job,
    }  # fmt: skip
    return kept + [(f"{DEAD_LETTER}{name}", value.encode()) for name, value in added.items()]


def header(headers: Any, name: str) -> str | None:
    """The last value of a header as text, or None. Takes what `Message.headers()` gives, None included.

    Bytes that are not UTF-8 come back with replacement characters; a header never fails a message.
    """
    found = None
    for key, value in pairs_of(headers):
        if key == name:
            found = value
    return None if found is None else found.decode("utf-8", "replace")


def pairs_of(headers: Any) -> Iterable[tuple[str, bytes]]:
    """Headers as pairs of text and bytes; a null value is empty bytes."""
    if not headers:
        return
    items = headers.items() if isinstance(headers, Mapping) else headers
    for name, value in items:
        if value is None:
            yield name, b""
        else:
            yield name, value.encode() if isinstance(value, str) else bytes(value)


def rfc3339(at: datetime) -> str:
    """UTC with milliseconds: `2026-01-01T00:00:00.000Z`; `at` must be timezone-aware."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat(timespec="milliseconds")[:-6] + "Z"  # without +00:00
