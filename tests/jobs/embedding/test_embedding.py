"""The process that makes vectors, over real HTTP: bounds, waiting, and the time before there is a model.

A model of the tests' own stands in where a test decides how long it takes; the real one is asked in
`tests/models/embedding` and `tests/contract/clients`.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest

from core.errors import Unavailable
from core.serving_settings import Embeddings
from core.settings import Settings
from jobs.embedding import main
from jobs.embedding.main import Load, serve
from models.embedding.encoder import Vectors
from tests.stack_fixture import free_ports


class Slow:
    """A token for each word; waits in `vectors` until it may go on."""

    def __init__(self) -> None:
        self.go, self.entered = threading.Event(), threading.Semaphore(0)
        self.calls: list[int] = []

    def tokens(self, text: str, *, most: int) -> list[int] | None:
        found = [len(word) for word in text.split()]
        return found if len(found) <= most else None

    def vectors(self, texts: Sequence[Sequence[int]]) -> Vectors:
        self.entered.release()
        assert self.go.wait(30)
        self.calls.append(len(texts))
        return np.array([[sum(ids), len(ids)] for ids in texts], np.float32)


class Running:
    def __init__(self, address: str, client: aiohttp.ClientSession) -> None:
        self._address, self._client = address, client

    async def ask(self, **body: Any) -> tuple[int, Any]:
        async with self._client.post(f"{self._address}/v1/embeddings", json=body) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, str]:
        async with self._client.get(self._address + path) as answer:
            return answer.status, await answer.text()

    async def until(self, path: str, status: int) -> None:
        async with asyncio.timeout(30):
            while True:
                try:
                    if (await self.get(path))[0] == status:
                        return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(load: Load, **own: Any) -> AsyncIterator[Running]:
    (port,) = free_ports(1)
    settings = Settings(embeddings=Embeddings(port=port, **own))
    stop = asyncio.Event()
    task = asyncio.create_task(serve(settings, load, stop=stop))
    async with aiohttp.ClientSession() as client:
        try:
            yield Running(f"http://127.0.0.1:{port}", client)
        finally:
            stop.set()
            await asyncio.wait_for(task, 20)


async def test_vectors_in_the_order_of_the_texts_and_tokens_counted() -> None:
    model = Slow()
    model.go.set()
    async with running(lambda: model) as site:
        await site.until("/ready", 200)
        status, body = await site.ask(input=["aa b", "ccc"])
        assert status == 200
        assert [(one["index"], one["embedding"]) for one in body["data"]] == [(0, [3, 2]), (1, [3, 1])]
        assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        assert "embedding_tokens_total" in (await site.get("/metrics"))[1]
        assert (await site.get("/v1/models"))[0] == 200
        assert (await site.get("/nobody"))[0] == 404


async def test_what_is_too_long_is_refused_and_named() -> None:
    model = Slow()
    model.go.set()
    async with running(lambda: model, input_tokens=8, request_tokens=16) as site:
        await site.until("/ready", 200)
        status, body = await site.ask(input=["a", "a " * 9])
        assert (status, body["error"]["param"]) == (422, "input.1")
        status, body = await site.ask(input=["a " * 8] * 3)
        assert (status, body["error"]["code"]) == (422, "invalid_request")
        assert (await site.ask(input="a", model="other"))[0] == 404
    assert model.calls == []


async def test_more_than_may_wait_is_refused_and_the_rest_answered() -> None:
    model = Slow()
    async with running(lambda: model, input_tokens=8, queued_tokens=16) as site:
        await site.until("/ready", 200)
        tasks = [asyncio.create_task(site.ask(input="a " * 8)) for _ in range(5)]
        refused = [(await one)[0] for one in itertools.islice(asyncio.as_completed(tasks, timeout=20), 3)]
        assert refused == [503] * 3
        model.go.set()
        statuses = [status for status, _ in await asyncio.gather(*tasks)]
    assert statuses.count(200) == 2
    assert statuses.count(503) == 3


async def test_who_waited_too_long_is_told_and_not_worked_for() -> None:
    model = Slow()
    async with running(lambda: model, timeout_s=0.2) as site:
        await site.until("/ready", 200)
        first, second = await asyncio.gather(site.ask(input="a"), site.ask(input="b"))
        assert (first[0], second[0]) == (504, 504)
        model.go.set()
        assert (await site.ask(input="c"))[0] == 200
    assert len(model.calls) == 2, "one was under way, the other was never begun"


async def test_until_there_is_a_model_it_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "RETRY_S", 0.01)
    there = threading.Event()

    def load() -> Slow:
        if not there.is_set():
            raise Unavailable("the wheel cannot be had")
        model = Slow()
        model.go.set()
        return model

    async with running(load) as site:
        await site.until("/health", 200)
        assert (await site.get("/ready"))[0] == 503
        status, body = await site.ask(input="a")
        assert (status, body["error"]["code"]) == (503, "model_unavailable")
        there.set()
        await site.until("/ready", 200)
        assert (await site.ask(input="a"))[0] == 200
