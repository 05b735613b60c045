"""What a thread read, as sockets are given it."""

import asyncio
import threading

from gateway.push.handover import Handover
from gateway.push.ring import Entry
from tests.gateway.sockets import Client, events, following, named, some_sessions
from tests.gateway.test_hub import CHANNEL

NEVER = threading.Event()


async def until(client: Client, count: int) -> None:
    async with asyncio.timeout(60):
        while len(client.events) < count:
            await asyncio.sleep(0)


def in_a_thread(handover: Handover, *reads: list[Entry]) -> None:
    """Returns when all are handed over; the loop has no turn meanwhile. After each read comes a message that
    is no entry."""

    def read() -> None:
        for entries in reads:
            assert handover.read(CHANNEL, entries, {0: entries[-1].offset + 1}, unless=NEVER)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()


async def test_what_was_read_while_the_loop_was_busy_is_one_message() -> None:
    hub, sessions, _ = some_sessions()
    client = await following(sessions, batched=True)
    handover = Handover(hub, ahead=3)
    in_a_thread(handover, events(0, 1), events(3, 3), events(5, 7))
    await until(client, 6)
    assert hub.channels[CHANNEL].rings[0].reached == 8
    in_a_thread(handover, events(9, 9))
    await until(client, 7)
    assert client.events == [*named(0, 1), "t3", *named(5, 7), "t9"]
    assert [len(message) if isinstance(message, list) else 1 for message in client.messages[2:]] == [6, 1]


async def test_what_was_read_before_a_channel_is_read_anew_is_given_before() -> None:
    hub, sessions, _ = some_sessions()
    client = await following(sessions)
    handover = Handover(hub, ahead=3)
    in_a_thread(handover, events(0, 1))
    handover.opened(CHANNEL, 8, {0: 0})
    in_a_thread(handover, events(2, 3))
    assert await client.code() == 1013
    assert client.events == named(0, 1)
    assert [entry.id for entry in hub.channels[CHANNEL].rings[0].after(-1)] == named(2, 3)


async def test_so_many_reads_wait_and_no_more() -> None:
    hub, sessions, _ = some_sessions()
    client = await following(sessions)
    handover, stopping = Handover(hub, ahead=2), threading.Event()
    in_a_thread(handover, events(0, 0), events(1, 1))
    stopping.set()
    assert not handover.read(CHANNEL, events(2, 2), {0: 2}, unless=stopping)
    await until(client, 2)
    assert handover.read(CHANNEL, events(2, 2), {0: 2}, unless=stopping)
    await until(client, 3)
    assert client.events == named(0, 2)
