"""The benchmark of the gateway: the goals are those that were set; load, counts and searches are right."""

import asyncio
from collections.abc import Callable

import pytest

from bench.gateway import whole
from bench.gateway_goals import GOALS, reached
from bench.gateway_push import FIRST_RATE, STEP, highest_rate
from bench.harness import BenchResult
from bench.http_load import MARK, Answer, Load, summary
from bench.registry import BENCHES
from bench.websocket_load import Socket, Specification
from core.errors import InternalError

AT_LEAST = {"publish": 4.0, "ask_64": 2.0, "push_rate": 2.0}
AT_MOST = {
    "ask_p50_ms": 4.0, "ask_p99_ms": 12.0, "hit_memory_p50_ms": 1.0, "hit_redis_p50_ms": 2.0,
    "miss_p50_ms": 10.0, "suggestion_hit_p95_ms": 100.0, "first_token_p95_ms": 100.0, "push_p50_ms": 10.0,
    "push_p99_ms": 50.0, "key_cached_us": 100.0, "key_uncached_us": 1_000.0, "limiter_us": 100.0,
    "livez_p99_ms": 5.0,
}  # fmt: skip


def test_the_goals_are_those_that_were_set() -> None:
    assert {name: goal.bound for name, goal in GOALS.items() if not goal.at_most} == AT_LEAST
    at_most = {name: goal.bound for name, goal in GOALS.items() if goal.at_most}
    assert 1.0 < at_most.pop("memory_growth") <= 1.05
    assert at_most == AT_MOST
    assert "gateway" in BENCHES


def test_parts_come_together_and_a_missing_ratio_is_refused() -> None:
    parts = [BenchResult(f"gateway-{name}", [reached(name, (1.0,) * 5)], {}) for name in GOALS]
    assert [ratio.name for ratio in whole(parts).ratios] == list(GOALS)
    with pytest.raises(InternalError, match="ratios"):
        whole(parts[1:])


@pytest.mark.parametrize("limit", [0.0, 3.0, 63.9, 64.0, 100.0, 1_000.0])
def test_the_highest_rate_is_the_last_step_that_is_kept(limit: float) -> None:
    found = highest_rate(lambda rate: rate <= limit, FIRST_RATE)
    if limit < 1:
        assert found == 0
    else:
        assert found <= limit < found * STEP


def test_a_rate_that_fails_once_by_chance_is_kept() -> None:
    failed: set[float] = set()

    def kept(rate: float) -> bool:
        if rate in failed:
            return rate <= 200
        failed.add(rate)
        return False

    assert 200 / STEP < highest_rate(kept, FIRST_RATE) <= 200


class Server:
    """Answers each request with its number, in two parts, a 503 where `refuse` says so."""

    def __init__(self, refuse: Callable[[int], bool] = lambda number: False) -> None:
        self.refuse = refuse
        self.bodies: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while request := await reader.read(10_000):
            self.bodies.append(request)
            status = 503 if self.refuse(len(self.bodies)) else 202
            writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 5\r\nServer-Timing: a;dur=1\r\n\r\nhe" % status)
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(b"llo")
        writer.close()


async def loaded(server: Server, work: Callable[[int], "asyncio.Future[list[Answer]]"]) -> list[Answer]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        return await work(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()


async def test_each_request_is_sent_once_with_a_number_of_its_own() -> None:
    server = Server()
    requests = [b"A " + MARK + b" " + MARK, b"B"]
    answers = await loaded(server, lambda port: steady(port, requests))
    assert [answer.status for answer in answers] == [202] * 20
    assert {answer.body for answer in answers} == {b"hello"}
    assert answers[0].header("server-timing") == "a;dur=1"
    numbered = [body.split() for body in server.bodies if body.startswith(b"A")]
    assert all(first == second for _, first, second in numbered)
    assert len({first for _, first, _ in numbered}) == len(numbered) == 10


def steady(port: int, requests: list[bytes]) -> "asyncio.Future[list[Answer]]":
    return asyncio.ensure_future(Load(port, requests, connections=4).steadily(200.0, 0.1))


async def test_each_prepared_request_is_sent_once_in_its_order() -> None:
    server, requests = Server(), [b"A", b"B", b"C"]
    await loaded(server, lambda port: asyncio.ensure_future(Load(port, requests, connections=1).each()))
    assert server.bodies == requests


async def test_connections_are_made_anew_and_refusals_are_no_figures() -> None:
    server = Server(lambda number: number % 5 == 0)
    answers = await loaded(
        server, lambda port: asyncio.ensure_future(Load(port, [b"A"], connections=2, reuse=3).at_once(0.2))
    )
    assert server.connections >= len(answers) / 3
    with pytest.raises(InternalError, match="503"):
        summary(answers, 0.2, status=202)


async def test_a_socket_counts_every_event_however_the_bytes_come() -> None:
    given = Specification(1, 1, (), ("hello",), "go", '"type":"event"', '"id":"([0-9]{19})"')
    ids = [f"{number:019d}" for number in range(300)]
    frames = [text('{"type":"go"}')]
    frames += [text(f'{{"type":"event","id":"{id}"}}') for id in ids[:100]]
    frames.append(text("[" + ",".join(f'{{"type":"event","id":"{id}"}}' for id in ids[100:]) + "]"))
    bytes_ = b"HTTP/1.1 101 x\r\n\r\n" + b"".join(frames)
    for size in (1, 7, 1000, len(bytes_)):
        socket = Socket(given, timed=True)
        for at in range(0, len(bytes_), size):
            socket.data_received(bytes_[at : at + size])
        assert socket.ready.done()
        assert (socket.events, socket.messages, len(socket.took_ns)) == (300, 101, 300)


def text(data: str) -> bytes:
    """A text frame as a server sends it."""
    size = len(data)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2)
    return head + data.encode()
