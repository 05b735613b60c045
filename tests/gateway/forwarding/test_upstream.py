"""What becomes of a forwarded request: a server that answers, refuses, fails, hangs, or talks without end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from core.errors import DeadlineExceeded, MillstreamError, QueueFull, ServerFailed
from gateway.forwarding import upstream as module
from gateway.forwarding.upstream import Upstream
from tests.stack_fixture import free_ports

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port, shutdown_timeout=0.1).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def forwarding(
    address: str, *, timeout_s: float = 5.0, connections: int = 4
) -> AsyncIterator[Upstream]:
    made = Upstream("the server", address, timeout_s=timeout_s, connections=connections, api_key="secret")
    try:
        yield made
    finally:
        await made.close()


async def test_what_is_sent_and_answered_is_handed_on() -> None:
    seen: list[tuple[str, str, bytes, str, str]] = []

    async def echo(request: web.Request) -> web.Response:
        head = request.headers
        seen.append(
            (request.method, request.path, await request.read(), head["x-one"], head["authorization"])
        )
        return web.Response(body=b"\x00\x01", headers={"inference-header-content-length": "1"})

    async with server(echo) as address, forwarding(address) as to:
        answer = await to.send("POST", "/v2/models/a/infer", b"body", {"x-one": "1"})
    assert (answer.status, answer.body) == (200, b"\x00\x01")
    assert answer.headers["inference-header-content-length"] == "1"
    assert seen == [("POST", "/v2/models/a/infer", b"body", "1", "Bearer secret")]


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422])
async def test_what_is_wrong_with_a_request_is_handed_on(status: int) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=status, body=b"why")

    async with server(refuse) as address, forwarding(address) as to:
        answer = await to.send("GET", "/")
    assert (answer.status, answer.body) == (status, b"why")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (503, QueueFull), (429, QueueFull), (504, DeadlineExceeded), (408, DeadlineExceeded),
        (500, ServerFailed), (502, ServerFailed), (401, ServerFailed), (403, ServerFailed),
        (301, ServerFailed), (204, ServerFailed),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_the_server_is_not_the_callers(
    status: int, error: type[MillstreamError]
) -> None:
    """Nor is what it says handed on: a key of ours that it refuses is not one of the caller's."""

    async def fail(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"retry-after": "7"})

    async with server(fail) as address, forwarding(address) as to:
        with pytest.raises(error) as raised:
            await to.send("GET", "/")
    assert address.removeprefix("http://") not in str(raised.value)
    if error is QueueFull:
        assert isinstance(raised.value, QueueFull)
        assert raised.value.retry_after_s == 7


async def test_nobody_there() -> None:
    (port,) = free_ports(1)
    async with forwarding(f"http://127.0.0.1:{port}") as to:
        with pytest.raises(ServerFailed) as raised:
            await to.send("GET", "/")
        assert raised.value.kind == "unreachable"
        assert not await to.ready()


async def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    never = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    async with server(hang) as address, forwarding(address, timeout_s=0.1) as to:
        with pytest.raises(DeadlineExceeded):
            await to.send("GET", "/")
        never.set()


async def test_a_connection_that_ends_is_tried_again_once() -> None:
    calls = 0

    async def end(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        if calls != 2:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(body=b"there")

    async with server(end) as address, forwarding(address) as to:
        assert (await to.send("POST", "/", b"x")).body == b"there"
        with pytest.raises(ServerFailed) as raised:
            await to.send("POST", "/", b"x")
    assert (raised.value.kind, calls) == ("lost", 4)


async def test_an_answer_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ANSWER", 1_000)

    async def talk(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1_001)

    async with server(talk) as address, forwarding(address) as to:
        with pytest.raises(ServerFailed) as raised:
            await to.send("GET", "/")
    assert raised.value.kind == "garbage"


async def test_no_more_at_once_than_there_may_be() -> None:
    go, entered = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(request: web.Request) -> web.Response:
        entered.release()
        await go.wait()
        return web.Response()

    async with server(wait) as address, forwarding(address, connections=2) as to:
        tasks = [asyncio.create_task(to.send("GET", "/")) for _ in range(2)]
        for _ in tasks:
            await entered.acquire()
        with pytest.raises(QueueFull):
            await to.send("GET", "/")
        go.set()
        await asyncio.gather(*tasks)
        assert (await to.send("GET", "/")).status == 200


async def test_readiness_is_asked_once_for_all() -> None:
    calls = 0

    async def ready(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response()

    async with server(ready) as address, forwarding(address) as to:
        assert all(await asyncio.gather(*(to.ready() for _ in range(20))))
        assert calls == 1
