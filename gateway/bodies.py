"""The body of a publish request: content type, size, and where one event ends and the next begins."""

from functools import lru_cache

import msgspec

from core.errors import InvalidInput, Malformed, TooLarge
from gateway import strict_json
from gateway.exchange import Request
from gateway.problems import UnsupportedMediaType

JSON = "application/json"
NDJSON = "application/x-ndjson"
MAX_BATCH_BYTES = 16 * 1024 * 1024
_NOTHING = msgspec.Raw(b"")


class Events(msgspec.Struct, frozen=True):
    """Raw events in their order. `single` is a body that was one event, answered with one outcome."""

    raw: list[bytes]
    single: bool


async def read_events(request: Request, *, max_event_bytes: int, max_events: int) -> Events:
    """Split the body into events.

    One JSON object is one event; a JSON array, or one JSON object a line (`application/x-ndjson`), are up
    to `max_events`. Raises UnsupportedMediaType, TooLarge, Malformed; an event that is too large among
    others is not refused here (its outcome is).
    """
    kind = content_type(request)
    body = await request.body(min(max_event_bytes * max_events, MAX_BATCH_BYTES))
    if kind == NDJSON:
        if body.count(b"\n") > 2 * max_events:
            raise _too_many(max_events)
        raw = [line for line in body.split(b"\n") if line.strip()]
        single = False
    elif body[:1] != b"{" and body.lstrip()[:1] == b"[":
        raw = _items(body, max_events)
        single = False
    else:
        if len(body) > max_event_bytes:
            raise too_large(max_event_bytes)
        if body[:1] != b"{" and not body.strip():
            raise Malformed("the body is empty", mend="send one event as a JSON object")
        return Events([body], single=True)
    if not raw:
        raise InvalidInput("no events in the body", code="no_events", mend="send at least one")
    if len(raw) > max_events:
        raise _too_many(max_events)
    return Events(raw, single)


def _items(body: bytes, most: int) -> list[bytes]:
    """The items of a JSON array. Raises TooLarge for more than `most` without decoding them, and
    Malformed."""
    try:
        found = msgspec.structs.astuple(_array_of(most).decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error, msgspec.ValidationError):
            raise _too_many(most) from None
        strict_json.check(body)
        raise Malformed("no valid JSON array") from None
    return [bytes(item) for item in found if item is not _NOTHING]


@lru_cache(maxsize=4)
def _array_of(most: int) -> msgspec.json.Decoder[msgspec.Struct]:
    """Decodes an array of up to `most` items. A struct written as an array is refused at the first item too
    many, a list of too many only when all of it was decoded: 16 MiB of `0,` take half a gigabyte."""
    fields = [(f"item_{index}", msgspec.Raw, _NOTHING) for index in range(most)]
    made = msgspec.defstruct("Array", fields, array_like=True, forbid_unknown_fields=True)
    return msgspec.json.Decoder(made)


def _too_many(most: int) -> TooLarge:
    return TooLarge(
        f"more than {most} events in one request", code="too_many_events", mend=f"send at most {most}"
    )


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"an event is larger than {limit} bytes", mend=f"send at most {limit} bytes")


def content_type(request: Request) -> str:
    """`application/json` or `application/x-ndjson`; raises UnsupportedMediaType for any other."""
    given = request.headers.get("content-type", "")
    if given == JSON and "content-encoding" not in request.headers:
        return JSON
    kind, _, options = given.partition(";")
    kind = kind.strip().lower()
    charset = options.partition("charset=")[2].strip().strip('"').lower()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if kind not in (JSON, NDJSON) or charset not in ("", "utf-8") or encoding != "identity":
        what = f"type {given[:100]!r}" if encoding == "identity" else f"encoding {encoding[:40]!r}"
        raise UnsupportedMediaType(
            f"content {what}",
            mend=f"send {JSON} or {NDJSON}, UTF-8, not compressed",
        )
    return kind
