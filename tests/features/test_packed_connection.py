"""Commands and answers that go past redis-py, against hiredis and a parser written from RESP's definition."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import hiredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import RedisError

from features.online.packed_connection import Connection, multi_get

SETTINGS = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KEYS = st.binary(max_size=40) | st.sampled_from([b"", b"\r\n", b"$5\r\nabcde\r\n", b"k" * 600])
VALUES = st.none() | st.binary(max_size=60) | st.sampled_from([b"\r\n", b"*1\r\n$-1\r\n", b"v" * 100_000])
FAILURES = (OSError, RedisError, hiredis.HiredisError)


class Pair:
    """A connection, and the other end of it. What it says is sent in pieces that end at `cuts`."""

    def __init__(self) -> None:
        self._sock, self.server = socket.socketpair()
        self._sock.settimeout(60.0)
        self.server.settimeout(60.0)
        self.pid = 0

    def disconnect(self) -> None:
        self._sock.close()
        self.server.close()

    def say(self, data: bytes, cuts: list[int]) -> threading.Thread:
        ends = [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]

        def send() -> None:
            begin = 0
            for end in ends:
                self.server.sendall(data[begin:end])
                begin = end
            self.server.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        return thread


@pytest.fixture
def pair() -> Iterator[Pair]:
    yield from one_pair()


def one_pair() -> Iterator[Pair]:
    opened = Pair()
    try:
        yield opened
    finally:
        opened.disconnect()


def ask(said: bytes, count: int, cuts: list[int]) -> Any:
    """What a connection makes of these bytes."""
    for opened in one_pair():
        thread = opened.say(said, cuts)
        try:
            return Connection(opened).get(b"ask", count)
        finally:
            thread.join()


def answer_of(values: list[bytes | None]) -> bytes:
    parts = [b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value) for value in values]
    return b"*%d\r\n" % len(values) + b"".join(parts)


@SETTINGS
@given(keys=st.lists(KEYS, min_size=1, max_size=30))
def test_a_command_is_what_hiredis_makes_of_it(keys: list[bytes]) -> None:
    assert multi_get(keys) == hiredis.pack_command(("MGET", *keys))  # type: ignore[arg-type]


@SETTINGS
@given(
    values=st.lists(VALUES, max_size=12),
    cuts=st.lists(st.integers(0, 2**20), max_size=6),
)
def test_an_answer_is_read_whatever_pieces_it_comes_in(values: list[bytes | None], cuts: list[int]) -> None:
    assert ask(answer_of(values), len(values), cuts) == values


@SETTINGS
@given(
    values=st.lists(st.none() | st.binary(max_size=20), min_size=1, max_size=6),
    hits=st.lists(st.tuples(st.integers(0, 2**10), st.integers(1, 255)), min_size=1, max_size=3),
    cut=st.none() | st.integers(0, 2**10),
    tail=st.binary(max_size=3),
)
def test_a_damaged_answer_is_what_hiredis_reads_or_an_error(
    values: list[bytes | None], hits: list[tuple[int, int]], cut: int | None, tail: bytes
) -> None:
    said = bytearray(answer_of(values))
    for at, flipped in hits:
        said[at % len(said)] ^= flipped
    said += tail
    data = bytes(said if cut is None else said[: cut % len(said)])
    reader = hiredis.Reader(notEnoughData=...)
    try:
        reader.feed(data)
        right = reader.gets()
    except hiredis.HiredisError:
        right = None
    whole = isinstance(right, list) and len(right) == len(values) and not reader.has_data()
    try:
        found = ask(data, len(values), [3, 7])
    except FAILURES:
        assert not whole
    else:
        assert found == right


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"*", b"*1\r\n$3\r\nab", b"-NOPERM no\r\n", b":1\r\n", b"$1\r\na\r\n", b"#f\r\n", b"_\r\n"),
        *(b"*-1\r\n", b"*0\r\n", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"*1\r\n$1\r\na\r\n+OK\r\n"),
        *(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*99999999999\r\n"),
    ],
)
def test_what_is_no_answer_of_one_value_is_an_error(said: bytes) -> None:
    with pytest.raises(FAILURES):
        ask(said, 1, [])


def test_a_refusal_says_why() -> None:
    with pytest.raises(RedisError, match="NOPERM this user"):
        ask(b"-NOPERM this user may not\r\n", 1, [4])


def test_silence_ends_with_the_timeout_of_the_connection(pair: Pair) -> None:
    pair._sock.settimeout(0.05)  # seconds, as redis-py sets it
    with pytest.raises(TimeoutError):
        Connection(pair).get(multi_get([b"a"]), 1)
    pair._sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        Connection(pair).get(multi_get([b"a"]), 1)
