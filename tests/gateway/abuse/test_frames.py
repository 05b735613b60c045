"""Every frame of the socket, sent wrongly in every way: an `error` frame with its code and an open socket,
or that and the close code of the table. The next good socket works. Positions that are garbage, of another
tenant or of the future recover nothing and harm nobody."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from core.ids import new_id
from gateway.principals import STREAM_READ
from gateway.push import frames
from gateway.push.positions import Position, Signer
from tests.gateway.abuse.routes import INJECTIONS
from tests.gateway.abuse.site import OURS, PATIENCE_S, POSITION_SECRET, Site
from tests.gateway.running import FRAUD, change, produce, transaction

pytestmark = pytest.mark.services
Frame = Mapping[str, Any]
CHANNEL = "results:fraud"
BAD = 4400


def kinds() -> dict[str, type[msgspec.Struct]]:
    """Every frame that a client may send, by its type."""
    return {str(kind.__struct_config__.tag): kind for kind in get_args(frames.Incoming)}


GOOD: dict[str, Frame] = {
    "connect": {"token": None, "positions": {}, "batched": False},
    "subscribe": {
        "channel": "results", "pipeline": "fraud", "entity": "e", "filter": {"status": "blocked"},
        "since": [], "name": "n", "policy": "drop_oldest",
    },
    "unsubscribe": {"channel": "results", "pipeline": "fraud", "entity": "e"},
    "ack": {"name": "n", "position": "p"},
    "publish": {"id": "1", "pipeline": "fraud", "data": {}},
    "ask": {"id": "1", "pipeline": "fraud", "data": {}, "key": "k", "wait_s": 1, "conversation": "c"},
    "cancel": {"id": "1"},
    "prompt": {"id": "1", "prompt": "Dear", "max_tokens": 4, "model": "m"},
    "ping": {"id": "1"},
    "pong": {"id": "1"},
}  # fmt: skip
"""A frame of each kind with every field that it has."""


@contextmanager
def opened(site: Site) -> Iterator[ClientConnection]:
    with connect(site.url.replace("http", "ws") + "/api/v1/stream", max_size=None) as socket:
        yield socket


@contextmanager
def connected(site: Site, key: str | None = None, **more: Any) -> Iterator[ClientConnection]:
    with opened(site) as socket:
        tell(socket, "connect", token=key or site.key_of_ours, **more)
        assert heard(socket)["type"] == "connected"
        yield socket


def tell(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def heard(socket: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(socket.recv(PATIENCE_S))
    return found


def refused(socket: ClientConnection) -> tuple[str, int | None]:
    """The code of the error that comes next, and that of the close behind it; None where the socket answers
    on."""
    said = heard(socket)
    assert said["type"] == "error", said
    assert "Traceback" not in json.dumps(said)
    try:
        tell(socket, "ping", id="still here")
        assert heard(socket) == {"type": "pong", "id": "still here"}
    except ConnectionClosed as closed:
        return said["problem"]["code"], closed.rcvd.code if closed.rcvd else 1006
    return said["problem"]["code"], None


def works(site: Site) -> None:
    with connected(site) as socket:
        tell(socket, "subscribe", channel="results", pipeline="fraud")
        assert heard(socket)["type"] == "subscribed"
    site.works()


def test_every_frame_has_a_row() -> None:
    assert GOOD.keys() == kinds().keys()
    for name, kind in kinds().items():
        fields = {field.encode_name for field in msgspec.structs.fields(kind)}
        assert GOOD[name].keys() == fields, name


@pytest.mark.parametrize("kind", [kind for kind in GOOD if kind != "connect"])
def test_nothing_comes_before_connect(site: Site, kind: str) -> None:
    with opened(site) as socket:
        tell(socket, kind, **GOOD[kind])
        assert refused(socket) == ("connect_first", BAD)
    works(site)


@pytest.mark.parametrize("kind", GOOD)
def test_fields_of_another_type(site: Site, kind: str) -> None:
    for field in GOOD[kind]:
        if field == "data":
            continue  # whatever it is, it is the pipeline's to refuse
        with connected(site) as socket:
            tell(socket, kind, **{**GOOD[kind], field: {"a": {"b": []}}})
            assert refused(socket) == ("malformed_frame", BAD), field
    works(site)


@pytest.mark.parametrize("kind", [kind for kind in GOOD if kind not in ("ping", "pong")])
def test_fields_that_are_not_known_or_missing(site: Site, kind: str) -> None:
    """Those of pings and pongs are passed over."""
    required = [field.encode_name for field in msgspec.structs.fields(kinds()[kind]) if field.required]
    wrong = [{**GOOD[kind], "nobody": "knows"}]
    wrong += [{name: value for name, value in GOOD[kind].items() if name != left} for left in required]
    for fields in wrong:
        with connected(site) as socket:
            tell(socket, kind, **fields)
            assert refused(socket) == ("malformed_frame", BAD), fields
    works(site)


TEXTS: dict[str, str | bytes] = {
    "nothing": "",
    "no JSON": "connect",
    "half a frame": '{"type":"ping"',
    "a list": '[{"type":"ping"}]',
    "no object": '"ping"',
    "null": "null",
    "no type": '{"id":"1"}',
    "a type that is none": '{"type":1}',
    "a type that nobody knows": '{"type":"shutdown"}',
    "a type of the gateway's": '{"type":"connected","session":"1","tenant":"theirs","heartbeat_s":30}',
    "an event": '{"type":"event","channel":"results:fraud","id":"1","positions":{},"data":{}}',
    "endless nesting": '{"type":"subscribe","channel":"results","filter":' + "[" * 20_000,
    "deep nesting": '{"type":"ack","name":' + "[" * 20_000 + "]" * 20_000 + "}",
    "half a character": '{"type":"ping","id":"\\ud800"}',
    "a number beyond all": '{"type":"prompt","id":"1","prompt":"x","max_tokens":1e999}',
    "an integer of 5000 digits": '{"type":"prompt","id":"1","prompt":"x","max_tokens":1' + "0" * 5_000 + "}",
    "a wait beyond all": '{"type":"ask","id":"1","pipeline":"fraud","data":{},"wait_s":1' + "0" * 30 + "}",
    "bytes": b'{"type":"ping"}',
    "HTTP": "GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("what", TEXTS)
def test_what_is_no_frame(site: Site, what: str) -> None:
    with connected(site) as socket:
        socket.send(TEXTS[what])
        assert refused(socket) == ("malformed_frame", BAD)
    works(site)


def test_frames_that_are_too_large(site: Site) -> None:
    with opened(site) as socket:
        tell(socket, "connect", token="a" * frames.MAX_CONNECT)
        assert refused(socket) == ("frame_too_large", BAD)
    with connected(site) as socket:
        tell(socket, "ping", id="a" * frames.MAX_FRAME)
        assert refused(socket) == ("frame_too_large", BAD)
    with connected(site) as socket:
        tell(socket, "ping", id="é" * (frames.MAX_FRAME // 2))
        assert refused(socket) == ("frame_too_large", BAD)
    works(site)


@pytest.mark.parametrize("token", ["", "nonsense", "a" * 9_000, "ms_", "' OR 1=1 --", None])
def test_a_token_that_is_none(site: Site, token: str | None) -> None:
    with opened(site) as socket:
        tell(socket, "connect", token=token)
        assert refused(socket) == ("unauthenticated", 4401)
    works(site)


def test_keys_without_the_scope(site: Site) -> None:
    poor, listener = site.key(OURS, scopes=[]), site.key(OURS, scopes=[STREAM_READ])
    with opened(site) as socket:
        tell(socket, "connect", token=poor)
        assert refused(socket) == ("forbidden", 4403)
    with connected(site, listener) as socket:
        for kind in ("publish", "ask"):
            tell(socket, kind, id=kind, pipeline="fraud", data=transaction())
            assert refused(socket) == ("forbidden", None)
        tell(socket, "prompt", id="p", prompt="Dear")
        assert refused(socket) == ("forbidden", None)
        for channel in ("jobs", "chat"):
            tell(socket, "subscribe", channel=channel)
            assert refused(socket) == ("forbidden", None)
    works(site)


def subscribing(channel: str = "alerts", **more: Any) -> Frame:
    return {"type": "subscribe", "channel": channel, **more}


def results(**more: Any) -> Frame:
    return subscribing("results", pipeline="fraud", **more)


def publishing(data: Any, pipeline: str = "fraud", id: str = "1") -> Frame:
    return {"type": "publish", "id": id, "pipeline": pipeline, "data": data}


def asking(data: Any, pipeline: str = "fraud", **more: Any) -> Frame:
    return {"type": "ask", "id": "1", "pipeline": pipeline, "data": data, **more}


def prompting(prompt: str, **more: Any) -> Frame:
    return {"type": "prompt", "id": "1", "prompt": prompt, **more}


def acknowledging(position: str) -> Frame:
    return {"type": "ack", "name": "n", "position": position}


ORDERS: dict[str, tuple[list[Frame], str, int | None]] = {
    "connected twice": ([{"type": "connect"}], "connected_already", BAD),
    "subscribed twice": ([subscribing(), subscribing()], "subscribed_already", 4409),
    "a name twice": ([subscribing(name="n"), results(name="n")], "subscribed_already", 4409),
    "an acknowledgement of nothing": ([acknowledging("p")], "unknown_subscription", None),
    "an acknowledgement of garbage": (
        [subscribing(name="n"), acknowledging("p")], "invalid_position", None
    ),
    "a channel that is none": ([subscribing("../alerts")], "unknown_channel", None),
    "a pipeline that is none": ([subscribing("results", pipeline="nope")], "unknown_channel", None),
    "an entity of no pipeline": ([subscribing("entity", entity="e")], "invalid_channel", None),
    "no channel to leave": ([{"type": "unsubscribe", "channel": "entity"}], "invalid_channel", BAD),
    "a name that is none": ([subscribing(name="a b")], "invalid_name", None),
    "a filter of nothing": ([results(filter={"nope": 1})], "invalid_filter", None),
    "a filter of another type": ([results(filter={"rank": "' OR 1"})], "invalid_filter", None),
    "a filter of too much": ([subscribing(filter={f"f{n}": 1 for n in range(100)})], "invalid_filter", None),
    "a filter of too many values": ([results(filter={"status": ["a"] * 100})], "invalid_filter", None),
    "a policy that is none": ([subscribing(policy="keep_all")], "malformed_frame", BAD),
    "too many positions": ([subscribing(since=["p"] * 2_000)], "too_many_positions", BAD),
    "an event that is none": ([publishing({})], "invalid_record", None),
    "an event that is no object": ([publishing(1)], "invalid_record", None),
    "an event of another tenant": ([publishing(transaction(tenant="theirs"))], "invalid_record", None),
    "an event for no pipeline": ([publishing({}, "nope")], "unknown_pipeline", None),
    "an event for a path": ([publishing({}, "../../reviews")], "unknown_pipeline", None),
    "an event for nothing": ([publishing({}, "")], "not_found", None),
    "an event that is too large": ([publishing(transaction(card_id="a" * 70_000))], "too_large", None),
    "a question that is none": ([asking([1])], "invalid_record", None),
    "a question to nobody": ([asking({}, "nope")], "unknown_pipeline", None),
    "a key that is none": ([asking(transaction(), key="a b")], "invalid_key", None),
    "a wait below zero": ([asking(transaction(), wait_s=-1)], "invalid_option", None),
    "a conversation that is none": (
        [asking({"prompt": "x"}, "generate", conversation="a b")], "invalid_conversation", None
    ),
    "a prompt of nothing": ([prompting(" ")], "invalid_request", None),
    "a prompt without end": ([prompting("a" * 100_000)], "invalid_request", None),
    "no tokens": ([prompting("x", max_tokens=0)], "invalid_request", None),
    "too many tokens": ([prompting("x", max_tokens=2**62)], "invalid_request", None),
    "an id of nothing": ([publishing({}, id="")], "invalid_id", None),
    "an id without end": ([publishing({}, id="a" * 200)], "invalid_id", None),
}  # fmt: skip
"""Frames behind `connect`: the code of the error that the last one gives, and of the close."""


@pytest.mark.parametrize("what", ORDERS)
def test_frames_out_of_order_and_of_no_sense(site: Site, what: str) -> None:
    sent, code, close = ORDERS[what]
    with connected(site) as socket:
        for frame in sent[:-1]:
            socket.send(json.dumps(frame))
            assert heard(socket)["type"] == "subscribed"
        socket.send(json.dumps(sent[-1]))
        assert refused(socket) == (code, close)
    works(site)


def test_frames_that_mean_nothing_are_harmless(site: Site) -> None:
    with connected(site) as socket:
        tell(socket, "cancel", id="never begun")
        tell(socket, "pong", id="never asked")
        tell(socket, "unsubscribe", channel="alerts")
        assert heard(socket) == {"type": "unsubscribed", "channel": "alerts"}
        for _ in range(500):
            tell(socket, "ping")
        for _ in range(500):
            assert heard(socket) == {"type": "pong"}
        for text in INJECTIONS:
            tell(socket, "subscribe", channel="results", pipeline="fraud", entity=text)
            assert heard(socket)["channel"] == f"results:fraud:{text}"
            tell(socket, "unsubscribe", channel="results", pipeline="fraud", entity=text)
            assert heard(socket)["type"] == "unsubscribed"
    works(site)


def test_more_subscriptions_than_are_kept(site: Site) -> None:
    with connected(site) as socket:
        for number in range(32):
            tell(socket, "subscribe", channel="results", pipeline="fraud", entity=str(number))
            assert heard(socket)["type"] == "subscribed"
        tell(socket, "subscribe", channel="alerts")
        assert refused(socket) == ("too_many_subscriptions", BAD)
    works(site)


def position_of_theirs(site: Site) -> str:
    """One that was given to them, before an event of theirs."""
    with connected(site, site.key_of_theirs) as socket:
        tell(socket, "subscribe", channel="results", pipeline="fraud")
        positions = list(heard(socket)["positions"].values())
    produce(site.settings, [change(new_id(), tenant="theirs")])
    return str(positions[0])


def epoch(site: Site) -> int:
    return site.assembly.connections.hub.channel(CHANNEL).epoch


def signed(position: Position, channel: str = CHANNEL) -> str:
    """One that we would have given to them."""
    return Signer(POSITION_SECRET.encode()).sign(position, OURS, channel)


POSITIONS: dict[str, Callable[[Site], str]] = {
    "garbage": lambda site: "garbage",
    "nothing": lambda site: "",
    "no text of ours": lambda site: "\u202e\U0001f4a5" * 20,
    "the right length": lambda site: "A" * 58,
    "sixty thousand letters": lambda site: "A" * 60_000,
    "theirs": position_of_theirs,
    "of the future": lambda site: signed(Position(epoch(site), 0, 2**40, 0)),
    "of the last of all days": lambda site: signed(Position(epoch(site), 0, 2**63 - 2, 0)),
    "of another channel": lambda site: signed(Position(epoch(site), 0, 0, 0), "alerts"),
    "of another topic of that name": lambda site: signed(Position(1, 0, 0, 0)),
    "of a partition that is not there": lambda site: signed(Position(epoch(site), 60_000, 0, 0)),
}


@pytest.mark.parametrize("what", POSITIONS)
@pytest.mark.parametrize("where", ["since", "connect", "event stream"])
def test_positions_that_are_none_recover_nothing(site: Site, what: str, where: str) -> None:
    position, id = POSITIONS[what](site), new_id()
    if where == "event stream":
        if not position.isascii() or not position or len(position) > 20_000:
            pytest.skip("no header")
        stream = site.ours.stream(
            "GET", "/api/v1/stream?channel=results&pipeline=fraud", headers={"last-event-id": position}
        )
        with stream as answer:
            assert answer.status_code == 200
            data = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
            said = next(data)
            produce(site.settings, [change(id, tenant=OURS)])
            event = next(data)
    else:
        at_connect = {"positions": {CHANNEL: [position]}} if where == "connect" else {}
        at_subscribe = {"since": [position]} if where == "since" else {}
        with connected(site, **at_connect) as socket:
            tell(socket, "subscribe", channel="results", pipeline="fraud", **at_subscribe)
            said = heard(socket)
            produce(site.settings, [change(id, tenant=OURS)])
            event = heard(socket)
    assert (said["type"], said["recovered"]) == ("subscribed", False)
    assert said["gaps"]
    assert len(said["positions"]) == FRAUD.status.partitions
    assert event["id"] == id, "the first that comes is what came after it"
    works(site)
