"""The connections that reads of packed values keep: for threads, after forks, closed and interrupted."""

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest
import redis

from core.errors import Unavailable
from features.online.client import connect
from features.online.packed_redis import RedisPackedValues
from tests.features.redis_server import RedisServer, own_redis

pytestmark = pytest.mark.services

KEYS = [f"key-{n}".encode() for n in range(64)]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        with connect(running.settings) as client:
            client.mset({key: key * 200 for key in KEYS})
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    connection = connect(server.settings)
    yield connection
    connection.close()


def all_right(values: RedisPackedValues, first: int, reads: int) -> bool:
    """Whether so many reads, each of three keys, gave what belongs to the keys."""
    for number in range(first, first + reads):
        keys = [KEYS[(number + step) % len(KEYS)] for step in range(3)]
        if values.get([*keys, b"none"]) != [*(key * 200 for key in keys), None]:
            return False
    return True


def test_threads_never_read_each_others_answers(client: redis.Redis) -> None:
    values, start = RedisPackedValues(client), threading.Barrier(8)
    right: list[bool] = []

    def read(first: int) -> None:
        start.wait()
        right.append(all_right(values, first, 300))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 8


def test_a_forked_process_reads_on_connections_of_its_own(client: redis.Redis) -> None:
    values = RedisPackedValues(client)
    assert all_right(values, 0, 1)
    child = os.fork()
    if child == 0:
        os._exit(0 if all_right(values, 20, 300) else 1)
    mine = all_right(values, 40, 300)
    assert os.waitpid(child, 0)[1] == 0
    assert mine
    assert all_right(values, 0, 3)


def test_connections_closed_while_nobody_read_are_replaced(client: redis.Redis) -> None:
    values = RedisPackedValues(client)
    for _ in range(3):
        assert all_right(values, 0, 2)
        client.client_kill_filter(_type="normal", skipme=True)
        assert all_right(values, 1, 2)
        client.connection_pool.disconnect()
        assert all_right(values, 2, 2)


def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(client: redis.Redis) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    values = RedisPackedValues(client)
    assert all_right(values, 0, 1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        client.client_pause(300)  # milliseconds
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            values.get([b"key-1"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all_right(values, 5, 20)


def test_an_answer_that_came_too_late_is_not_the_next_ones(server: RedisServer, client: redis.Redis) -> None:
    with redis.Redis(port=server.port, socket_timeout=0.1) as impatient:
        values = RedisPackedValues(impatient)
        assert all_right(values, 0, 1)
        client.client_pause(400)
        with pytest.raises(Unavailable):
            values.get([b"key-1"])
        client.ping()  # answers when the pause is over
        assert all_right(values, 5, 20)


def test_a_refusal_is_unavailable_and_the_next_read_goes_well(client: redis.Redis) -> None:
    values = RedisPackedValues(client)
    assert all_right(values, 0, 1)
    client.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"], commands=["-mget"])
    try:
        with pytest.raises(Unavailable, match="mget") as refused:
            values.get([b"key-1"])
        assert refused.value.code == "redis_unavailable"
    finally:
        client.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"], commands=["+mget"])
    assert all_right(values, 5, 5)


def test_connections_go_back_with_who_kept_them(client: redis.Redis) -> None:
    client.connection_pool.max_connections = 2
    for number in range(5):
        assert all_right(RedisPackedValues(client), number, 2)
    assert client.ping()
