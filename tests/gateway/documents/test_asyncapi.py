"""The AsyncAPI document: a valid one, whose frames are those of the protocol and whose topics are all."""

import json
from typing import Any, get_args

import fastavro
import jsonschema_rs
import msgspec
import pytest
from asyncapi3.models.asyncapi import AsyncAPI3

from core.errors import Malformed
from gateway.documents.sockets import CLOSE_CODES
from gateway.push import frames
from pipelines.load import load_plans
from tests.gateway.documents.made import asyncapi_document, validator


def test_the_document_is_a_valid_one() -> None:
    read = AsyncAPI3.model_validate(asyncapi_document())
    assert len(read.channels.root) == len(asyncapi_document()["channels"])


def test_operations_refer_to_messages_of_their_channel() -> None:
    document = asyncapi_document()
    for name, operation in document["operations"].items():
        channel = operation["channel"]["$ref"].removeprefix("#/channels/")
        for message in operation["messages"]:
            where, _, key = message["$ref"].removeprefix("#/channels/").partition("/messages/")
            assert where == channel, name
            assert key in document["channels"][channel]["messages"], name


def test_payloads_are_schemas_and_their_references_lead_somewhere() -> None:
    document = asyncapi_document()
    for channel in document["channels"].values():
        for message in channel["messages"].values():
            payload = message["payload"]
            if "schemaFormat" in payload:
                fastavro.parse_schema(payload["schema"])
            else:
                validator(document, payload)  # raises for what is no schema, or leads nowhere


def test_every_topic_of_every_pipeline_is_there() -> None:
    addresses = {channel["address"] for channel in asyncapi_document()["channels"].values()}
    assert {topic.name for plan in load_plans().values() for topic in plan.topics} <= addresses


def test_every_close_code_is_explained() -> None:
    named = {
        value
        for name, value in vars(frames).items()
        if name.isupper() and isinstance(value, int) and 1000 <= value < 5000 and not name.startswith("MAX")
    }
    assert named <= CLOSE_CODES.keys()
    told = asyncapi_document()["channels"]["stream"]["x-close-codes"]
    assert {int(code) for code in told} == CLOSE_CODES.keys()


GOOD: tuple[dict[str, Any], ...] = (
    {"type": "connect"},
    {"type": "connect", "token": None, "positions": {"results:fraud": ["p"]}, "batched": True},
    {"type": "subscribe", "channel": "results", "pipeline": "fraud", "filter": {"status": ["blocked", None]}},
    {"type": "subscribe", "channel": "alerts", "policy": "drop_oldest", "since": [], "name": "desk"},
    {"type": "unsubscribe", "channel": "alerts"},
    {"type": "ack", "name": "desk", "position": "p"},
    {"type": "publish", "id": "1", "pipeline": "fraud", "data": {"x": 1}},
    {"type": "ask", "id": "2", "pipeline": "fraud", "data": {}, "wait_s": 3, "conversation": "c"},
    {"type": "cancel", "id": "2"},
    {"type": "prompt", "id": "3", "prompt": "Dear", "max_tokens": 4},
    {"type": "ping"},
    {"type": "pong", "id": "7"},
)  # fmt: skip
OTHERS = (None, True, 1, 1.5, "x", [], ["x"], [1], {}, {"x": 1}, {"x": [None, True]}, {"x": {}}, "disconnect")


def _incoming() -> jsonschema_rs.Draft202012Validator:
    document = asyncapi_document()
    messages = document["channels"]["stream"]["messages"]
    listed = document["operations"]["receive_frames"]["messages"]
    names = [message["$ref"].rpartition("/")[2] for message in listed]
    assert len(names) == len(get_args(frames.Incoming))
    return validator(document, {"oneOf": [messages[name]["payload"] for name in names]})


def test_the_frames_that_are_taken_are_those_that_the_schemas_take() -> None:
    valid = _incoming()
    seen = {True: 0, False: 0}
    for good in GOOD:
        bodies = [good, good | {"unknown": 1}, good | {"type": "nothing"}]
        for name in {*good, "id", "policy", "filter", "since", "positions", "wait_s", "name"} - {"type"}:
            bodies += [good | {name: other} for other in OTHERS]
            bodies.append({key: value for key, value in good.items() if key != name})
        for body in bodies:
            try:
                frames.decode(msgspec.json.encode(body))
                taken = True
            except Malformed:
                taken = False
            assert valid.is_valid(json.loads(json.dumps(body))) == taken, body
            seen[taken] += 1
    assert min(seen.values()) > 50


@pytest.mark.parametrize("kind", get_args(frames.Outgoing))
def test_what_is_sent_has_a_message(kind: Any) -> None:
    assert kind.__struct_config__.tag in asyncapi_document()["channels"]["stream"]["messages"]
