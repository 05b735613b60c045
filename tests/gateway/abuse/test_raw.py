"""Bytes on a connection of the whole gateway: what two servers could read in two ways, what never ends, what
is no HTTP, and handshakes and frames that are none. Heads, bodies and readers that are too slow are in
`test_raw_requests`, which can wait for shorter times; here they are held while others go on."""

import base64
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.gateway import test_raw_requests
from tests.gateway.abuse.site import PATIENCE_S, Site

pytestmark = pytest.mark.services
EVENTS = b"/api/v1/pipelines/fraud/events"
SMUGGLED = b"GET /api/v1/reviews HTTP/1.1\r\nHost: a\r\n\r\n"
HELD, IDLE = 300, 1_000


@contextmanager
def connection(site: Site) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", site.settings.gateway.port), PATIENCE_S) as made:
        yield made


def answers(site: Site, data: bytes) -> bytes:
    """All that comes back until the gateway ends the connection."""
    with connection(site) as made:
        try:
            made.sendall(data)
            found = b""
            while part := made.recv(65_536):
                found += part
            return found
        except ConnectionError:
            return b""


def works_raw(site: Site) -> None:
    site.works()
    good = b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert answers(site, good).startswith(b"HTTP/1.1 200 ")


CREDENTIAL = "Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
CHUNKED = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % EVENTS
SHAPES = {
    what: (data.replace(b"/echo", EVENTS), status)
    for what, (data, status) in test_raw_requests.SHAPES.items()
} | {
    "a chunk beyond numbers": (CHUNKED + b"f" * 40 + b"\r\n", 411),
    "an extension of a chunk": (CHUNKED + b"0;a=\x00\r\n\r\n", 411),
    "a chunk of less than nothing": (CHUNKED + b"-1\r\n\r\n", 411),
    "a carriage return alone": (b"POST %b HTTP/1.1\rHost: a\rContent-Length: 0\r\r" % EVENTS, 400),
    "a blank first": (b" GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a name with a blank": (b"GET /livez HTTP/1.1\r\nHost: a\r\nX Y: a\r\n\r\n", 400),
}  # fmt: skip


@pytest.mark.parametrize("what", SHAPES)
def test_what_could_be_read_in_two_ways(site: Site, what: str) -> None:
    data, status = SHAPES[what]
    found = answers(site, data + SMUGGLED)
    assert found.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status)), found[:200]
    assert found.count(b"HTTP/1.") == 1, "what came behind it was answered"
    works_raw(site)


UNCLEAR: dict[str, tuple[bytes, bytes]] = {
    "an address in the line": (b"GET http://169.254.169.254/livez HTTP/1.1\r\nHost: a\r\n", b"200 400 404"),
    "a tunnel": (b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: a\r\n", b"400 404 405"),
    "two slashes": (b"GET //livez HTTP/1.1\r\nHost: a\r\n", b"404"),
    "another host behind two slashes": (b"GET //169.254.169.254/livez HTTP/1.1\r\nHost: a\r\n", b"404"),
    "every path": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n", b"400 404"),
    "a dot and a dot": (b"GET /api/v1/../../livez HTTP/1.1\r\nHost: a\r\n", b"404"),
    "dots behind percents": (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n", b"404"),
    "a dot": (b"GET /api/v1/reviews/. HTTP/1.1\r\nHost: a\r\n", b"404 405"),
    "backslashes": (b"GET /\\..\\..\\etc\\passwd HTTP/1.1\r\nHost: a\r\n", b"400 404"),
    "percents that are none": (b"GET /%zz%1 HTTP/1.1\r\nHost: a\r\n", b"400 404"),
    "bytes in the path": (b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n", b"400 404"),
    "bytes in a field": (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: \xff\xfe\r\n", b"200"),
    "bytes in the credential": (
        b"GET /api/v1/reviews HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\n", b"401"
    ),
    "line feeds alone": (b"GET /livez HTTP/1.1\nHost: a\n", b"200 400"),
    "an upgrade to HTTP/2": (
        b"GET /livez HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n", b"200"
    ),
    "a body where none belongs": (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", b"200"),
    "fields that are to be dropped": (
        b"GET /api/v1/reviews HTTP/1.1\r\nHost: a\r\nConnection: close, authorization\r\n", b"401"
    ),
    "an expectation": (
        b"POST %b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" % EVENTS, b"401"
    ),
    "an expectation that is none": (b"GET /livez HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n", b"200 417"),
    "a terabyte": (b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 1099511627776\r\n" % EVENTS, b"401"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNCLEAR)
def test_what_is_unclear_is_read_in_one_way(site: Site, what: str) -> None:
    head, statuses = UNCLEAR[what]
    body = b"hello" if b"Content-Length: 5" in head else b"{}" if b"Content-Length: 2" in head else b""
    end = b"\n" if b"\r" not in head else b"\r\n"
    found = answers(site, head + b"Connection: close" + end * 2 + body)
    assert found[9:12] in statuses.split(), found[:200]
    assert found.count(b"HTTP/1.1 ") == 1
    works_raw(site)


def test_what_is_held_holds_nobody_up(site: Site) -> None:
    """Heads, bodies and answers that never end; more of each than the gateway handles at once."""
    head = b"POST %b HTTP/1.1\r\nHost: a\r\n" % EVENTS
    credential = CREDENTIAL.format(key=site.key_of_ours).encode()
    events = b"GET /api/v1/stream?channel=alerts HTTP/1.1\r\nHost: a\r\n%b\r\n" % credential
    with ExitStack() as open_ones:
        for data in (head, head + credential + b"Content-Length: 100\r\n\r\n{", events):
            for _ in range(HELD):
                open_ones.enter_context(connection(site)).sendall(data)
        works_raw(site)
    works_raw(site)


def handshake(*fields: bytes, path: bytes = b"/api/v1/stream", method: bytes = b"GET") -> bytes:
    key = base64.b64encode(os.urandom(16))
    given = b"".join(field + b"\r\n" for field in fields)
    return (
        b"%b %b HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n%b\r\n" % (method, path, key, given)
    )


def frame(opcode: int, payload: bytes, *, end: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    first = bytes([(0x80 if end else 0) | reserved << 4 | opcode])
    length = (
        bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + struct.pack(">H", len(payload))
        if len(payload) < 65_536 else b"\x7f" + struct.pack(">Q", len(payload))
    )  # fmt: skip
    if not masked:
        return first + length + payload
    mask = b"\x01\x02\x03\x04"
    return (
        first
        + bytes([length[0] | 0x80])
        + length[1:]
        + mask
        + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    )


CONNECT = b'{"type":"connect"}'
FRAMES: dict[str, bytes] = {
    "not masked": frame(1, CONNECT, masked=False),
    "a reserved bit": frame(1, CONNECT, reserved=4),
    "a reserved kind": frame(3, b""),
    "a large ping": frame(9, b"a" * 126),
    "a ping in parts": frame(9, b"a", end=False),
    "an end of nothing": frame(0, b"a"),
    "a beginning in the middle": frame(1, b"a", end=False) + frame(1, b"b"),
    "a length beyond all": b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04",
    "no UTF-8": frame(1, b'{"type":"\xff\xfe"}'),
    "half a character": frame(1, b"\xed\xa0\x80"),
    "bytes": frame(2, CONNECT),
    "a close without a code": frame(8, b"\x03"),
    "a close with a code that is none": frame(8, struct.pack(">H", 999)),
    "a close in bad words": frame(8, struct.pack(">H", 1000) + b"\xff"),
    "HTTP again": b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "nothing but zeros": b"\x00" * 100,
}


def closed(site: Site, data: bytes) -> int | None:
    """The code that a socket is closed with, whatever was said before; None where it just ends."""
    with connection(site) as made:
        made.sendall(data)
        stream = made.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 101 ")
        while stream.readline() != b"\r\n":
            pass
        try:
            while head := stream.read(2):
                size = head[1] if head[1] < 126 else struct.unpack(">H", stream.read(2))[0]
                payload = stream.read(size)
                assert b"connected" not in payload
                if head[0] == 0x88:
                    return int(struct.unpack(">H", payload[:2])[0]) if payload else 1005
        except ConnectionError:
            return None
        return None


BROKEN = {None, 1000, 1002, 1007, 1009}
"""How an end may look that the protocol itself asks for."""
ENDS = {what: {4400} if what == "bytes" else BROKEN for what in FRAMES}


@pytest.mark.parametrize("what", FRAMES)
def test_frames_that_are_none_end_their_socket_alone(site: Site, what: str) -> None:
    assert closed(site, handshake() + FRAMES[what]) in ENDS[what]
    works_raw(site)


def test_handshakes_that_are_none(site: Site) -> None:
    good = handshake()
    cases = {
        "another path": (handshake(path=b"/api/v1/nope"), (b"403", b"404")),
        "another method": (handshake(method=b"POST"), (b"400",)),
        "without a key": (good.replace(b"Sec-WebSocket-Key", b"X"), (b"400",)),
        "another version": (good.replace(b"Version: 13", b"Version: 7"), (b"400",)),
    }
    for what, (data, statuses) in cases.items():
        with connection(site) as made:
            made.sendall(data)
            assert made.recv(65_536)[9:12] in statuses, what
    works_raw(site)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ((b"Origin: https://evil.example",), 4403),
        ((b"Origin: null",), 4403),
        ((b"Origin: http://a.evil.example",), 4403),
        ((b"Origin: http://[",), 4403),
        ((b"Origin: ",), 4403),
        ((b"Sec-WebSocket-Protocol: graphql-ws",), 4406),
        ((b"Origin: http://a", b"Origin: https://evil.example"), 4400),
        ((b"Authorization: Bearer a", b"Authorization: Bearer b"), 4400),
        ((b"X: " + b"a" * 40_000,), 4400),
    ],
)
def test_sockets_of_others_and_with_unclear_heads_are_closed(
    site: Site, fields: tuple[bytes, ...], code: int
) -> None:
    assert closed(site, handshake(*fields)) == code
    works_raw(site)


def test_a_thousand_idle_sockets_keep_nobody_out(site: Site) -> None:
    with ExitStack() as idle:
        for _ in range(IDLE):
            made = idle.enter_context(connection(site))
            made.sendall(handshake())
        works_raw(site)
        with connection(site) as good:
            good.sendall(handshake(b"Authorization: Bearer " + site.key_of_ours.encode()) + frame(1, CONNECT))
            found = b""
            while b'"type":"connected"' not in found:
                part = good.recv(65_536)
                assert part, found
                found += part
    works_raw(site)
