"""Text over real HTTP: prompts and OpenAI's client, on a fake that fails and on the real small model."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from core.clock import ManualClock, SystemClock
from core.settings import Llm, Settings
from gateway.admission import Admission
from gateway.generating.chat import ANEW
from gateway.generating.wiring import generating_routes
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.principals import ASK, EVENTS_WRITE
from gateway.routing import Router
from gateway.server import Application
from gateway.wire.listener import Listener
from models.llm.client import HttpLanguageServer
from models.llm.connections import Pooling
from models.llm.servers import Unbroken
from operators.answer_statistics import BatchStatus, QueueState, RollingStatistics, Timings
from operators.generate import Generate
from operators.generate_request import Limits
from operators.server_pool import Member, ServerPool
from tests.gateway.asking_in_process import InProcessAsking
from tests.gateway.samples import NOW, KeysInMemory
from tests.llm_real import MODEL, RealServer, small_model
from tests.operators.generating import World, until, words, world

__all__ = ["small_model"]
KEY, ID, HASH = mint()
OTHER, OTHER_ID, OTHER_HASH = mint()


class Board:
    """Redis in memory, as far as the status board uses it; can be away."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.away = False

    async def hgetall(self, key: str) -> dict[bytes, bytes]:
        if self.away:
            raise ConnectionRefusedError
        return dict(self.rows)

    async def hset(self, key: str, name: str, value: bytes) -> None:
        self.rows[name.encode()] = value

    async def hdel(self, key: str, *names: bytes) -> None:
        for name in names:
            self.rows.pop(name, None)


class Site:
    """The generating routes on a real socket."""

    def __init__(self, port: int, board: Board) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.board = board
        headers = {"authorization": f"Bearer {KEY}"}
        self.http = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=120)
        self.openai = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=120)


@asynccontextmanager
async def site(generate: Generate, model: str, *, wait_s: float = 30.0) -> AsyncIterator[Site]:
    settings = Settings(llm=Llm(model=model, max_prompt_bytes=1000, max_tokens=400, wait_s=wait_s))
    board = Board()
    keys = KeysInMemory(
        Key(ID, HASH, "acme", "", frozenset({ASK}), NOW),
        Key(OTHER_ID, OTHER_HASH, "acme", "", frozenset({EVENTS_WRITE}), NOW),
    )
    routes = generating_routes(settings, InProcessAsking(generate), board, SystemClock())  # type: ignore[arg-type]
    application = Application(Admission(Router(routes), Keyring(keys, clock=ManualClock(NOW))))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    listener = Listener(application, "127.0.0.1", port)
    listener.start()
    made = Site(port, board)
    async with asyncio.timeout(10):
        while True:
            try:
                await made.http.get("/v1/models")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.02)
    try:
        yield made
    finally:
        await made.http.aclose()
        await made.openai.close()
        await listener.stop(5)


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world("fake", "fake") as made:
        yield made


@pytest.fixture
async def served(w: World) -> AsyncIterator[Site]:
    async with site(w.generate, "fake") as made:
        yield made


async def events(response: httpx.Response) -> list[tuple[str, Any]]:
    found, name = [], ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            found.append((name, json.loads(line[6:])))
    return found


async def test_a_prompt_is_answered_whole(served: Site) -> None:
    answer = await served.http.post("/api/v1/generate", json={"prompt": "Tell me.", "max_tokens": 5})
    assert answer.status_code == 200
    body = answer.json()
    assert body["text"] == words(5)
    assert body["statistics"]["tokens"] == 5
    assert body["usage"]["completion_tokens"] == 5
    assert body["id"] == answer.headers["x-request-id"]


async def test_a_prompt_is_answered_in_events_as_they_come(served: Site, w: World) -> None:
    w.fakes[0].seconds_per_token = 0.03
    asked = {"prompt": "Tell me.", "max_tokens": 10, "stream": True}
    async with served.http.stream("POST", "/api/v1/generate", json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        loop, times = asyncio.get_running_loop(), []
        found = []
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                times.append(loop.time())
                found.append(json.loads(line[6:]))
    assert "".join(one["text"] for one in found[:-1]) == found[-1]["text"] == words(10)
    assert times[-1] - times[0] > 0.2  # not all at the end


@pytest.mark.parametrize("path", ["/api/v1/generate", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400), (b"\xff\xfe", 400), (b"[]", 400), (b"", 400),
        (b'{"prompt": ""}', None), (b'{"messages": []}', None), (b'{"prompt": "x", "max_tokens": -1}', None),
    ],
)  # fmt: skip
async def test_a_body_not_in_order(
    served: Site, w: World, path: str, body: bytes, status: int | None
) -> None:
    headers = {"content-type": "application/json"}
    answer = await served.http.post(path, content=body, headers=headers)
    assert answer.status_code == (status or (400 if path.startswith("/api") else 422))
    told = answer.json()
    assert ("error" in told) == path.startswith("/v1")
    assert w.fakes[0].seen == []


async def test_what_is_wrong_with_a_prompt_is_named(served: Site) -> None:
    answer = await served.http.post("/api/v1/generate", json={"prompt": "", "max_tokens": 10**9})
    assert answer.status_code == 400
    assert {one["pointer"] for one in answer.json()["errors"]} == {"/prompt", "/max_tokens"}


async def test_statuses_of_what_cannot_be_answered(served: Site, w: World) -> None:
    asked = {"prompt": "x", "max_tokens": 5}
    unknown = await served.http.post("/api/v1/generate", json=asked | {"model": "fakt"})
    assert unknown.status_code == 404
    assert "fake" in unknown.text
    for fake in w.fakes:
        fake.script = ["status_500"]
    failed = await served.http.post("/api/v1/generate", json=asked)
    assert (failed.status_code, failed.json()["code"]) == (503, "server_failed")
    assert failed.headers["retry-after"] == "1"
    other = {"authorization": f"Bearer {OTHER}"}
    assert (await served.http.post("/api/v1/generate", json=asked, headers=other)).status_code == 403
    wrong = {"authorization": "Bearer x"}
    assert (await served.http.post("/v1/chat/completions", json=asked, headers=wrong)).status_code == 401


async def test_a_full_queue_and_a_passed_deadline() -> None:
    async with world(slots=1, queue=1) as w, site(w.generate, "fake", wait_s=0.5) as served:
        w.fakes[0].seconds_per_token = 0.05
        asked = {"prompt": "x", "max_tokens": 400}
        first = asyncio.create_task(served.http.post("/api/v1/generate", json=asked))
        await until(lambda: w.fakes[0].open == 1)
        second = asyncio.create_task(served.http.post("/api/v1/generate", json=asked))
        await until(lambda: w.pool.queued == 1)
        refused = await served.http.post("/api/v1/generate", json=asked)
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        chat = {"messages": [{"role": "user", "content": "x"}]}
        same = await served.http.post("/v1/chat/completions", json=chat)
        assert (same.status_code, same.json()["error"]["code"]) == (503, "queue_full")
        assert [one.status_code for one in await asyncio.gather(first, second)] == [504, 504]
        await until(lambda: w.fakes[0].open == 0)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", ["/api/v1/generate", "/v1/chat/completions"])
async def test_a_client_that_leaves_frees_the_slot(served: Site, w: World, streamed: bool, path: str) -> None:
    w.fakes[0].seconds_per_token = 0.05
    asked: dict[str, Any] = {"max_tokens": 400, "stream": streamed}
    asked |= {"prompt": "x"} if path.startswith("/api") else {"messages": [{"role": "user", "content": "x"}]}
    task = asyncio.create_task(served.http.post(path, json=asked))
    await until(lambda: w.fakes[0].open == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await until(lambda: w.fakes[0].open == 0 and w.members[0].in_flight == 0)


async def test_a_server_that_dies_in_mid_stream_is_followed_by_another_visibly(
    served: Site, w: World
) -> None:
    w.fakes[0].script = ["reset"]
    asked = {"prompt": "Tell me.", "max_tokens": 10, "stream": True}
    async with served.http.stream("POST", "/api/v1/generate", json=asked) as response:
        found = await events(response)
    names = [name for name, _ in found]
    assert names.count("continued") == 1
    assert names[-1] == "answer"
    (told,) = [data for name, data in found if name == "continued"]
    assert (told["previous"], told["server"], told["characters"]) == ("s0", "s1", len("w0 w1 w2"))
    assert "".join(data["text"] for name, data in found if name == "text") == words(10)


async def test_a_stream_that_cannot_be_ended_says_so(served: Site, w: World) -> None:
    for fake in w.fakes:
        fake.script = ["reset", "reset"]
    asked = {"prompt": "Tell me.", "max_tokens": 10, "stream": True}
    async with served.http.stream("POST", "/api/v1/generate", json=asked) as response:
        found = await events(response)
    assert found[-1][0] == "problem"
    assert found[-1][1]["code"] == "server_lost"


async def test_openais_client_whole_and_streamed(served: Site) -> None:
    messages: Any = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Tell me."}]
    whole = await served.openai.chat.completions.create(model="fake", messages=messages, max_tokens=5)
    assert whole.choices[0].message.content == words(5)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 5
    stream = await served.openai.chat.completions.create(
        model="fake", messages=messages, max_completion_tokens=5, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == words(5)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert [model.id async for model in served.openai.models.list()] == ["fake"]


async def test_openais_client_sees_errors_as_its_own(served: Site, w: World) -> None:
    messages: Any = [{"role": "user", "content": "Tell me."}]
    create = served.openai.chat.completions.create
    with pytest.raises(openai.NotFoundError):
        await create(model="nothing", messages=messages)
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        await create(model="fake", messages=messages, max_tokens=-1)
    assert wrong.value.param == "max_tokens"
    for fake in w.fakes:
        fake.script = ["status_500", "reset"]
    with pytest.raises(openai.InternalServerError) as failed:
        await create(model="fake", messages=messages)
    assert failed.value.status_code == 503
    stream = await create(model="fake", messages=messages, stream=True)
    with pytest.raises(openai.APIError):
        [chunk async for chunk in stream]


async def test_openais_client_reads_that_an_answer_begins_anew() -> None:
    async with world("fake", "fake") as w, site(w.generate, "fake") as served:
        w.fakes[0].script, w.fakes[1].continues = ["reset"], False
        messages: Any = [{"role": "user", "content": "Tell me."}]
        create = served.openai.chat.completions.create
        stream = await create(model="fake", messages=messages, max_tokens=5, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == f"w0 w1 w2{ANEW}{words(5)}"


async def test_the_status_of_batches(served: Site) -> None:
    empty = (await served.http.get("/api/v1/batch/status")).json()
    assert empty["queue"] == {"length": 0, "capacity": 0}
    assert empty["success_rate"] is None
    statistics = RollingStatistics(SystemClock())
    statistics.answered(
        Timings(total_ms=100, queue_wait_ms=10, tokens=5, tokens_per_s=20.0, generation_ms=200, batch_size=2)
    )
    statistics.failed("server_lost")
    clock = SystemClock()
    for name in ("a", "b"):
        from pipelines.batch_status import StatusBoard

        status = BatchStatus(
            active_model="fake", queue=QueueState(1, 32), servers=[],
            last_minute=statistics.window(60), last_5_minutes=statistics.window(300),
        )  # fmt: skip
        telling = asyncio.create_task(
            StatusBoard(served.board, clock).tell(name, lambda status=status: status)  # type: ignore[arg-type, misc]
        )
        await asyncio.sleep(0.01)
        telling.cancel()
    told = (await served.http.get("/api/v1/batch/status")).json()
    assert told["queue"] == {"length": 2, "capacity": 64}
    assert told["success_rate"] == 0.5
    assert told["average_batch_size"] == 2
    assert told["queue_efficiency"] == 0.9
    assert told["tokens_per_s"] == 20
    assert set(told["processes"]) == {"a", "b"}
    assert told["last_minute"]["answers"] == 2
    served.board.away = True
    assert (await served.http.get("/api/v1/batch/status")).status_code == 503
    assert (await served.http.get("/v1/models")).json()["data"][0]["id"] == "fake"


@pytest.mark.services
class TestOnTheRealModel:
    async def test_openais_client_and_prompts(self, small_model: RealServer) -> None:
        clock = SystemClock()
        pooling = Pooling(silence_s=60)
        server = HttpLanguageServer("real", MODEL, small_model.url, floor=0.1, pooling=pooling)
        pool = ServerPool([Member(server, slots=2, breaker=Unbroken(), clock=clock)], queue=4, clock=clock)
        await pool.start()
        statistics = RollingStatistics(clock)
        generate = Generate(pool, statistics, limits=Limits(), clock=clock)
        async with site(generate, MODEL, wait_s=120) as served:
            messages: Any = [{"role": "user", "content": "Say hello in five words."}]
            create = served.openai.chat.completions.create
            whole = await create(model=MODEL, messages=messages, max_tokens=12, temperature=0)
            stream = await create(model=MODEL, messages=messages, max_tokens=12, temperature=0, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert whole.choices[0].message.content
            assert "ello" in text
            answers = await asyncio.gather(
                *(
                    served.http.post("/api/v1/generate", json={"prompt": f"Count to {n}.", "max_tokens": 16})
                    for n in range(4)
                )
            )
            for answer in answers:
                body = answer.json()
                assert body["text"].strip()
                assert body["statistics"]["first_token_ms"] > 0
                assert body["statistics"]["tokens_per_s"] > 0
                assert body["statistics"]["tokenization_ms"] > 0
            assert {answer.json()["statistics"]["batch_size"] for answer in answers} == {1, 2}
            long = asyncio.create_task(
                served.http.post("/api/v1/generate", json={"prompt": "Tell a story.", "max_tokens": 400})
            )
            async with asyncio.timeout(60):
                while not await small_model.busy():
                    await asyncio.sleep(0.02)
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)
            async with asyncio.timeout(20):
                while await small_model.busy():
                    await asyncio.sleep(0.02)
        await server.close()
        assert statistics.window(60).success_rate == 1.0
