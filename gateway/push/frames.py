"""The frames of `millstream.v1.json`: what a client may send, what it gets, and how a socket is closed.

    -> {"type": "connect", "token": "ms_...", "positions": {"results:fraud": ["<position>", ...]}}
    <- {"type": "connected", "session": "...", "tenant": "...", "heartbeat_s": 30}
    -> {"type": "subscribe", "channel": "results", "pipeline": "fraud", "filter": {"status": "blocked"},
        "since": ["<position>", ...], "name": "desk", "policy": "drop_oldest"}
    <- {"type": "subscribed", "channel": "results:fraud", "recovered": true,
        "positions": {"0": "<position>", ...}, "gaps": []}
    <- {"type": "event", "channel": "results:fraud", "id": "...", "positions": {"0": "<position>"},
        "pushed_at": "2026-01-01T00:00:00.000Z", "data": {...}}
    -> {"type": "ack", "name": "desk", "position": "<position>"}
    -> {"type": "publish", "id": "1", "pipeline": "fraud", "data": {...}}
    <- {"type": "published", "for": "1", "status": 202, "data": {...}}
    -> {"type": "ask", "id": "2", "pipeline": "fraud", "data": {...}}
    <- {"type": "answer", "for": "2", "status": 200, "data": {...}}
    -> {"type": "prompt", "id": "3", "prompt": "Dear si"}
    <- {"type": "suggestion", "for": "3", "source": "model", "partial": "r or madam", "final": false}
    -> {"type": "ping", "id": "7"}            <- {"type": "pong", "id": "7"}
    <- {"type": "error", "problem": {...}, "channel": "results:nope"}

A client keeps the newest position of each partition: those of `subscribed` first, then each event's. It
resumes with the set, in `connect` or in `since`, and gets what came after. `recovered: false` tells of what
cannot be had any more, partition by partition in `gaps`. A subscription with a `name` goes on from what was
acknowledged under that name, on any gateway, where the client gives no positions.
"""

from datetime import datetime
from typing import Literal

import msgspec

from core.errors import Malformed
from core.structs import ready
from gateway.problems import Problem
from schemas.record import Int64, Record

SUBPROTOCOL = "millstream.v1.json"
CONNECT_WITHIN_S = 10.0
HEARTBEAT_S = 30.0
SILENT_S = 90.0
MAX_CONNECT = 64 * 1024
MAX_FRAME = 1024 * 1024
MAX_POSITIONS = 1024

GOING_AWAY = 1001
OVERLOADED = 1013
BAD_FRAME = 4400
UNAUTHENTICATED = 4401
FORBIDDEN = 4403
WRONG_PROTOCOL = 4406
TIMED_OUT = 4408
CONFLICT = 4409
TOO_SLOW = 4429
INTERNAL = 4500

Policy = Literal["drop_oldest", "coalesce_by_key", "disconnect"]
Scalar = str | int | float | bool | None


class Connect(msgspec.Struct, frozen=True, tag="connect", forbid_unknown_fields=True):
    """The first frame. The token may come in the Authorization header instead. Positions by channel.
    batched: whether the gateway may send frames that wait as one message, a JSON array of them."""

    token: str | None = None
    positions: dict[str, list[str]] = {}
    batched: bool = False


@ready
class Subscribe(msgspec.Struct, frozen=True, tag="subscribe", forbid_unknown_fields=True):
    """`since` wins over the positions of `connect`, those over what was acknowledged under `name`; without
    any, from now on. `filter`: for each field of the data the value, or the values, that it must have.

    policy, when the client does not keep up: `disconnect` closes the socket (4429), `drop_oldest` leaves out
    what has waited longest and tells how much, `coalesce_by_key` keeps of what waits the newest per entity.
    """

    channel: str
    pipeline: str | None = None
    entity: str | None = None
    filter: dict[str, Scalar | list[Scalar]] = {}
    since: list[str] | None = None
    name: str | None = None
    policy: Policy = "disconnect"


class Unsubscribe(msgspec.Struct, frozen=True, tag="unsubscribe", forbid_unknown_fields=True):
    channel: str
    pipeline: str | None = None
    entity: str | None = None


class Ack(msgspec.Struct, frozen=True, tag="ack", forbid_unknown_fields=True):
    """Everything up to the position, of its partition, has been dealt with. Never moves back."""

    name: str
    position: str


class Publish(msgspec.Struct, frozen=True, tag="publish", forbid_unknown_fields=True):
    """`data`: one event or a list of them, as the body of a request would be."""

    id: str
    pipeline: str
    data: msgspec.Raw


class Ask(msgspec.Struct, frozen=True, tag="ask", forbid_unknown_fields=True):
    """`key` as the Idempotency-Key of a request. Of the pipeline `generate` a body with `"stream": true` is
    answered in pieces; what was asked and answered in a `conversation` is pushed on the channel `chat`."""

    id: str
    pipeline: str
    data: msgspec.Raw
    key: str | None = None
    wait_s: Int64 | None = None
    conversation: str | None = None


class Cancel(msgspec.Struct, frozen=True, tag="cancel", forbid_unknown_fields=True):
    """The answer of an ask, or the suggestion to a prompt, is not wanted any more."""

    id: str


class Prompt(msgspec.Struct, frozen=True, tag="prompt", forbid_unknown_fields=True):
    """What somebody has typed so far. The next one supersedes it: it is cancelled, and gets no more."""

    id: str
    prompt: str
    max_tokens: Int64 = 16
    model: str | None = None


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


class EventBody(msgspec.Struct, frozen=True):
    """One message of a channel: an `event` frame without its type and channel (`event_text` adds them)."""

    id: str
    positions: dict[str, str]
    pushed_at: datetime
    data: Record


class Dropped(msgspec.Struct, frozen=True, tag="dropped"):
    """So many events were left out before the next one, by the policy `drop_oldest`."""

    channel: str
    count: int


class Published(msgspec.Struct, frozen=True, tag="published"):
    """`status` and `data` are those of the answer to a request; 207 has an outcome per event."""

    of: str = msgspec.field(name="for")
    status: int
    data: msgspec.Raw


class Piece(msgspec.Struct, frozen=True, tag="piece"):
    """A piece of an answer; with `restart` true what came before is void."""

    of: str = msgspec.field(name="for")
    restart: bool
    data: msgspec.Raw


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    of: str = msgspec.field(name="for")
    status: int
    data: msgspec.Raw


class Suggestion(msgspec.Struct, frozen=True, tag="suggestion"):
    """How the prompt `for` could go on: `partial` is the whole suggestion as far as it is known."""

    of: str = msgspec.field(name="for")
    source: Literal["cache", "model"]
    partial: str
    final: bool


class Error(msgspec.Struct, frozen=True, tag="error", omit_defaults=True):
    """Something asked for was refused; the socket stays open unless a close follows."""

    problem: Problem
    channel: str | None = None
    of: str | None = msgspec.field(name="for", default=None)


Incoming = Connect | Subscribe | Unsubscribe | Ack | Publish | Ask | Cancel | Prompt | Ping | Pong
Outgoing = (
    Connected | Subscribed | Unsubscribed | Dropped | Published | Piece | Answer | Suggestion | Error
    | Ping | Pong
)  # fmt: skip

_decoder = msgspec.json.Decoder(Incoming)
_encoder = msgspec.json.Encoder()


def decode(text: str | bytes, *, limit: int = MAX_FRAME) -> Incoming:
    """A client's frame; raises Malformed."""
    if len(text) > limit:
        raise Malformed(f"a frame of more than {limit} bytes", code="frame_too_large")
    try:
        frame: Incoming = _decoder.decode(text)
        return frame
    except (msgspec.MsgspecError, UnicodeDecodeError, UnicodeEncodeError, RecursionError) as error:
        raise Malformed(f"no frame of {SUBPROTOCOL}: {error}", code="malformed_frame") from None


def encode(frame: Outgoing) -> str:
    return _encoder.encode(frame).decode()


def encode_body(body: EventBody) -> str:
    """The part of an event frame that every channel it is pushed on shares."""
    return _encoder.encode(body).decode()


def event_text(channel: str, body: str) -> str:
    """The event frame on a channel."""
    return f'{{"type":"event","channel":{_encoder.encode(channel).decode()},{body[1:]}'
