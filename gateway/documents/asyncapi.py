"""The AsyncAPI 3 document: the socket and the event stream that clients have, and the topics behind them.

`send` and `receive` are this gateway's. A topic without an operation is one that others write and read.
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from gateway.documents import sockets, topics
from gateway.documents.openapi import Document
from gateway.documents.schemas import STRING, Schemas
from gateway.documents.served import Served
from gateway.push import frames
from gateway.server import STREAM_PATH

SOCKET, EVENTS = "stream", "event_stream"
ABOUT = (
    "What is pushed to clients, over a WebSocket or as server-sent events, what they may send, and the "
    "Kafka topics behind it. Routes are in `/openapi.json`."
)


def asyncapi(served: Served) -> Document:
    """The document of what this gateway serves."""
    schemas = Schemas()
    incoming = sockets.incoming(schemas)
    outgoing = sockets.outgoing(schemas, served.feeds)
    over_events = sockets.over_events(schemas, served.feeds)
    channels: Document = {
        SOCKET: _socket([*incoming, *outgoing]),
        EVENTS: {
            "address": STREAM_PATH,
            "title": "Server-sent events",
            "description": sockets.ABOUT_EVENTS,
            "servers": [{"$ref": "#/servers/gateway"}],
            "messages": _messages(over_events),
        },
    }
    operations: Document = {
        "receive_frames": _operation("receive", SOCKET, "What clients send over a socket.", incoming),
        "send_frames": _operation("send", SOCKET, "What clients get over a socket.", outgoing),
        "send_events": _operation("send", EVENTS, "What an event stream has.", over_events)
        | {"bindings": {"http": {"method": "GET", "bindingVersion": "0.3.0"}}},
    }
    for name, used in topics.topics(served).items():
        channel = name.replace(".", "_")
        channels[channel] = _topic(used)
        for action, why in used.actions.items():
            operations[f"{action}_{channel}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel}"},
                "summary": why,
                "messages": [{"$ref": f"#/channels/{channel}/messages/record"}],
            }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Millstream", "version": version("millstream"), "description": ABOUT},
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": channels,
        "operations": operations,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "httpApiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _servers() -> Document:
    address = {"default": "127.0.0.1:8000", "description": "where the gateway, or its balancer, is"}
    brokers = {"default": "127.0.0.1:9092", "description": "where Kafka is"}
    security = [{"$ref": "#/components/securitySchemes/bearer"}, {"$ref": "#/components/securitySchemes/key"}]
    return {
        "sockets": {
            "host": "{address}", "protocol": "ws", "variables": {"address": address}, "security": security
        },
        "gateway": {
            "host": "{address}", "protocol": "http", "variables": {"address": address}, "security": security
        },
        "kafka": {
            "host": "{brokers}",
            "protocol": "kafka",
            "variables": {"brokers": brokers},
            "description": "Inside only: clients have no access to it.",
        },
    }  # fmt: skip


def _socket(messages: Iterable[sockets.Message]) -> Document:
    headers = {
        "type": "object",
        "properties": {"Authorization": STRING, "X-API-Key": STRING, "Origin": STRING},
    }
    return {
        "address": STREAM_PATH,
        "title": f"WebSocket, subprotocol {frames.SUBPROTOCOL}",
        "description": sockets.ABOUT_SOCKET,
        "servers": [{"$ref": "#/servers/sockets"}],
        "messages": _messages(messages),
        "bindings": {"ws": {"method": "GET", "headers": headers, "bindingVersion": "0.1.0"}},
        "x-subprotocol": frames.SUBPROTOCOL,
        "x-close-codes": {str(code): text for code, text in sorted(sockets.CLOSE_CODES.items())},
    }


def _messages(messages: Iterable[sockets.Message]) -> Document:
    return {
        one.name: {
            "name": one.name,
            "contentType": "application/json",
            "summary": one.summary,
            "payload": one.payload,
        }
        for one in messages
    }


def _operation(action: str, channel: str, summary: str, messages: Iterable[sockets.Message]) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{one.name}"} for one in messages],
    }


def _topic(used: topics.Used) -> Document:
    topic = used.topic
    record = topic.record
    of = f" Of {', '.join(used.pipelines)}." if used.pipelines else ""
    text = "Messages that could not be handled." if record is None else record.spec().doc
    message: dict[str, Any] = {
        "name": topic.name if record is None else record.spec().full_name,
        "contentType": "application/avro",
        "headers": topics.message_headers(topic),
        "payload": topics.payload(topic),
        "bindings": topics.key(topic),
    }
    return {
        "address": topic.name,
        "description": f"{text}{of}",
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {"record": message},
        "bindings": topics.bindings(topic),
    }
