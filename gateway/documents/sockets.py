"""What goes over a socket and an event stream, for AsyncAPI: the frames and the ends of both."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import msgspec

from gateway.documents.schemas import STRING, TIME, Schema, Schemas, record
from gateway.push import frames
from gateway.push.feed import Feed
from schemas.record import Record

CLOSE_CODES: Mapping[int, str] = {
    1000: "Good bye, as the client wanted.",
    frames.GOING_AWAY: "This gateway is going away; connect to another and resume.",
    frames.OVERLOADED: "Too many sockets, or something is away; come back later.",
    frames.BAD_FRAME: "A frame that is none, or comes at the wrong time.",
    frames.UNAUTHENTICATED: "No valid credential, or it was revoked or has expired meanwhile.",
    frames.FORBIDDEN: "The credential may not, or pages of this origin may not open sockets.",
    4404: "There is no such path.",
    frames.WRONG_PROTOCOL: f"None of the offered subprotocols is `{frames.SUBPROTOCOL}`.",
    frames.TIMED_OUT: "No `connect` in time, or no sign of the client for too long.",
    frames.CONFLICT: "Subscribed already to this channel, or under this name.",
    frames.TOO_SLOW: "The client does not keep up, or asks for too much; resume from the last position.",
    frames.INTERNAL: "Something went wrong here.",
}
ABOUT_SOCKET = f"""One socket carries everything: what is pushed, what is published, what is asked.

The first frame is `connect`, within {frames.CONNECT_WITHIN_S:g} s, with a credential unless the header
`Authorization` has it. A client keeps the newest position of each partition and resumes with the set;
`recovered: false` tells of what cannot be had any more, partition by partition in `gaps`. A frame that was
refused is answered with `error`, and the socket stays open unless a close follows. After
{frames.HEARTBEAT_S:g} s of silence `ping` is sent, after {frames.SILENT_S:g} s without a sign of the client
the socket is closed. Frames have at most {frames.MAX_FRAME} bytes, `connect` {frames.MAX_CONNECT}."""
ABOUT_EVENTS = """The same channels without a socket, one per stream. The first event is `subscribed`; those
that have no name are `event` frames. The `id` of each is the set of positions up to it, to be sent back as
`Last-Event-ID`. A stream that is ended by `error` says why first; one that just ends is to be resumed."""


class Message(msgspec.Struct, frozen=True):
    """A message of a channel: its name, what it is, its payload."""

    name: str
    summary: str
    payload: Any


def incoming(schemas: Schemas) -> list[Message]:
    """What a client may send."""
    return [_frame(kind, schemas) for kind in get_args(frames.Incoming)]


def outgoing(schemas: Schemas, feeds: Iterable[Feed]) -> list[Message]:
    """What a client gets over a socket."""
    own = [_frame(kind, schemas) for kind in get_args(frames.Outgoing)]
    return [*own, *events(schemas, feeds)]


def events(schemas: Schemas, feeds: Iterable[Feed]) -> list[Message]:
    """The `event` frames, one kind for each feed."""
    return [_event(feed, schemas) for feed in sorted(feeds, key=lambda feed: feed.name)]


def over_events(schemas: Schemas, feeds: Iterable[Feed]) -> list[Message]:
    """What an event stream has."""
    kinds = (frames.Subscribed, frames.Dropped, frames.Error)
    return [*(_frame(kind, schemas) for kind in kinds), *events(schemas, feeds)]


def _frame(kind: type[msgspec.Struct], schemas: Schemas) -> Message:
    name = str(kind.__struct_config__.tag)
    schema = schemas.of(kind)
    text = schemas.components[kind.__name__].get("description", "")
    return Message(name, text.partition("\n")[0] or f"The frame `{name}`.", schema)


def _event(feed: Feed, schemas: Schemas) -> Message:
    data: type[Record] | None = feed.topic.record
    channel: Schema = {
        "type": "string",
        "pattern": f"^({'entity|' if feed.kind == 'results' else ''}{feed.kind})(:.*)?$",
    }
    properties: dict[str, Schema] = {
        "type": {"const": "event"},
        "channel": channel,
        "id": {**STRING, "description": "of the record"},
        "positions": {
            "type": "object",
            "additionalProperties": STRING,
            "description": "where to go on from, by partition",
        },
        "pushed_at": TIME,
        "data": schemas.of(data),
    }
    name = f"event_{feed.name.replace(':', '_')}"
    scope = f" Needs the scope `{feed.permission}` too." if feed.permission else ""
    text = f"An event of the channel `{feed.name}`.{scope}"
    return Message(name, text, schemas.add(name, {"title": name, **record(properties)}))
