"""One connection turn by turn: what it takes, what it holds back, what it answers first."""

import asyncio
from typing import Any

from gateway.wire.call import HELD_BYTES
from gateway.wire.connection import HttpConnection
from tests.gateway.wire.serving import Site, get


class WriteOnly(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.paused = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def test_no_more_is_read_while_requests_wait(site: Site) -> None:
    reading = WriteOnly()
    connection = HttpConnection(site.listener)
    connection.connection_made(reading)
    connection.data_received(get("/slow"))
    assert not reading.paused
    connection.data_received(get("/x"))
    assert reading.paused
    site.echo.let.set()
    while reading.paused:
        await asyncio.sleep(0.01)
    assert [b"/slow? 0" in part or b"/x? 0" in part for part in reading.written] == [True, True]
    connection.connection_lost(None)


async def test_a_body_is_not_taken_before_it_is_asked_for(site: Site) -> None:
    transport = WriteOnly()
    connection = HttpConnection(site.listener)
    connection.connection_made(transport)
    connection.data_received(get("/x", "content-length: 100000", method="POST") + b"y" * (HELD_BYTES + 1))
    assert transport.paused
    while transport.paused:
        await asyncio.sleep(0)
    connection.data_received(b"y" * (100_000 - HELD_BYTES - 1))
    while not transport.written:
        await asyncio.sleep(0)
    assert transport.written[0].endswith(b"/x? 100000")
    connection.connection_lost(None)


async def test_what_waits_for_nothing_is_answered_before_what_has_its_turn_to_come(site: Site) -> None:
    waiting, transport = WriteOnly(), WriteOnly()
    behind, connection = HttpConnection(site.listener), HttpConnection(site.listener)
    behind.connection_made(waiting)
    connection.connection_made(transport)
    behind.data_received(get("/x"))
    connection.data_received(get("/now"))
    assert transport.written[0].endswith(b"/now? 0")
    assert not waiting.written
    connection.data_received(get("/now") + get("/x") + get("/now"))
    assert [part[-4:] for part in transport.written] == [b"w? 0", b"w? 0"]
    while len(transport.written) < 4:
        await asyncio.sleep(0)
    assert [part[-4:] for part in transport.written[2:]] == [b"x? 0", b"w? 0"]
    behind.connection_lost(None)
    connection.connection_lost(None)


async def test_the_next_part_waits_until_the_one_before_is_taken(site: Site) -> None:
    transport = WriteOnly()
    connection = HttpConnection(site.listener)
    connection.connection_made(transport)
    connection.pause_writing()
    connection.data_received(get("/parts"))
    while len(transport.written) < 2:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(transport.written) == 2
    connection.resume_writing()
    while len(transport.written) < 4:
        await asyncio.sleep(0)
    assert b"".join(transport.written).endswith(b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")
    connection.connection_lost(None)
