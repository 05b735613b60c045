"""The frames of `millstream.v1.json`: what a client may send, what it gets, and how a socket is closed.

    -> {"type": "connect", "key": "ms_...", "positions": {"results:fraud": ["<token>", ...]}}
    <- {"type": "connected", "session": "...", "tenant": "...", "heartbeat_s": 30}
    -> {"type": "subscribe", "channel": "results", "pipeline": "fraud", "since": ["<token>", ...]}
    <- {"type": "subscribed", "channel": "results:fraud", "recovered": true,
        "positions": {"0": "<token>", ...}, "gaps": []}
    <- {"type": "event", "id": "...", "channel": "results:fraud", "partition": 0, "position": "<token>",
        "pushed_at": "2026-01-01T00:00:00.000Z", "data": {...}}
    -> {"type": "ping", "id": "7"}            <- {"type": "pong", "id": "7"}
    <- {"type": "error", "problem": {...}, "channel": "results:nope"}

A client keeps the newest position of each partition: those of `subscribed` first, then each event's. It
resumes with the set, in `connect` or in `since`, and gets what came after. `recovered: false` tells of what
cannot be had any more, partition by partition in `gaps`.
"""

from datetime import datetime

import msgspec

from core.errors import Malformed
from gateway.problems import Problem
from schemas.record import Record

SUBPROTOCOL = "millstream.v1.json"
CONNECT_WITHIN_S = 10.0
HEARTBEAT_S = 30.0
SILENT_S = 90.0
MAX_FRAME = 64 * 1024
MAX_POSITIONS = 1024

BAD_FRAME = 4400
UNAUTHENTICATED = 4401
WRONG_PROTOCOL = 4406
TIMED_OUT = 4408
TOO_SLOW = 4429
GOING_AWAY = 1001
OVERLOADED = 1013


class Connect(msgspec.Struct, frozen=True, tag="connect", forbid_unknown_fields=True):
    """The first frame. The key may come in the Authorization header instead."""

    key: str | None = None
    positions: dict[str, list[str]] = {}


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe", forbid_unknown_fields=True):
    """`since` wins over the positions of `connect`; without either, from now on."""

    channel: str
    pipeline: str | None = None
    since: list[str] | None = None


class Unsubscribe(msgspec.Struct, frozen=True, tag="unsubscribe", forbid_unknown_fields=True):
    channel: str
    pipeline: str | None = None


class Ping(msgspec.Struct, frozen=True, tag="ping", omit_defaults=True):
    id: str | None = None


class Pong(msgspec.Struct, frozen=True, tag="pong", omit_defaults=True):
    id: str | None = None


class Connected(msgspec.Struct, frozen=True, tag="connected"):
    session: str
    tenant: str
    heartbeat_s: float


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is lost of one partition: offsets `first` to `last`, both included, where they are known."""

    reason: str
    partition: int | None = None
    first: int | None = None
    last: int | None = None


class Subscribed(msgspec.Struct, frozen=True, tag="subscribed"):
    channel: str
    recovered: bool
    positions: dict[str, str]
    gaps: list[Gap]


class Unsubscribed(msgspec.Struct, frozen=True, tag="unsubscribed"):
    channel: str


class Event(msgspec.Struct, frozen=True, tag="event"):
    """One message of a channel."""

    id: str
    channel: str
    partition: int
    position: str
    pushed_at: datetime
    data: Record


class Error(msgspec.Struct, frozen=True, tag="error", omit_defaults=True):
    """Something asked for was refused; the socket stays open unless a close follows."""

    problem: Problem
    channel: str | None = None


Incoming = Connect | Subscribe | Unsubscribe | Ping | Pong
Outgoing = Connected | Subscribed | Unsubscribed | Event | Error | Ping | Pong

_decoder = msgspec.json.Decoder(Incoming)
_encoder = msgspec.json.Encoder()


def decode(text: str | bytes) -> Incoming:
    """A client's frame; raises Malformed."""
    if len(text) > MAX_FRAME:
        raise Malformed(f"a frame of more than {MAX_FRAME} bytes", code="frame_too_large")
    try:
        frame: Incoming = _decoder.decode(text)
        return frame
    except (msgspec.MsgspecError, UnicodeDecodeError, UnicodeEncodeError, RecursionError) as error:
        raise Malformed(f"no frame of {SUBPROTOCOL}: {error}", code="malformed_frame") from None


def encode(frame: Outgoing) -> str:
    return _encoder.encode(frame).decode()
