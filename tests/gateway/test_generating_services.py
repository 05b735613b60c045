"""Text from LLMs through real Kafka: gateway, requests, the answering process, replies, and back."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis.asyncio

from core.clock import ManualClock, SystemClock
from core.errors import MillstreamError
from core.settings import settings
from gateway.admission import Admission
from gateway.asking.wiring import AskingPart
from gateway.generating.asked import KafkaAsking
from gateway.generating.wiring import generating_routes
from gateway.health import Health
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.main import _model_routes
from gateway.models import ModelsEndpoint
from gateway.principals import ASK, MODELS_READ, MODELS_WRITE
from gateway.routing import Router
from gateway.server import Application
from gateway.wire.listener import Listener
from operators.generate import PIPELINE
from pipelines.changes import apply_topics
from pipelines.generating import REQUESTS, TOPICS
from pipelines.outbox import RecordOutbox
from pipelines.serving.follower import Follower
from schemas.registry import SchemaRegistry
from stack.local import Stack
from tests.gateway.samples import NOW, KeysInMemory
from tests.llm_fake import FakeServer, fake_server
from tests.operators.generating import until, words
from tests.stack_fixture import EXTERNAL_ADDRESSES, environment, free_ports, services_required, stack_env

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
KEY, ID, HASH = mint()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kafka, registry and Redis of these tests' own."""
    with environment(stack_env(tmp_path_factory.mktemp("generating")), without=EXTERNAL_ADDRESSES):
        own = Stack(settings())
        try:
            own.up({"kafka", "registry", "redis"}, timeout_s=240)
        except MillstreamError as error:
            if services_required():
                pytest.fail(f"the stack does not start, and MILLSTREAM_REQUIRE_SERVICES=1:\n{error}")
            warnings.warn(f"NOT TESTED: the stack does not start:\n{error}", stacklevel=1)
            pytest.skip(f"NOT TESTED: the stack does not start: {error}")
        apply_topics(TOPICS, settings())
        yield
        own.down()


class Site:
    def __init__(self, url: str, fakes: list[FakeServer]) -> None:
        self.fakes = fakes
        self.http = httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=90)
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=90)


@pytest.fixture
async def site(broker: None, tmp_path: Path) -> AsyncIterator[Site]:
    """A gateway in this loop, one answering process, the controller, and fake servers: two of the model that
    serves, one of the next, one that is too slow."""
    given, clock = settings(), SystemClock()
    async with AsyncExitStack() as exits:
        names = ("fake", "fake", "next", "slow")
        fakes = [await exits.enter_async_context(fake_server(name)) for name in names]
        fakes[3].seconds_per_token = 0.3  # the floor is 9 tokens/s
        url = ",".join(f"{fake.model}={fake.url}" for fake in fakes)
        probe, beside = free_ports(2)
        env = {"MILLSTREAM_LLM__URL": url, "PYTHONPATH": str(ROOT)}
        answering = [sys.executable, "-m", "cli", "run", "generating"]
        control = [sys.executable, "-m", "tests.jobs.rollout.processes", "controller", str(tmp_path)]
        for arguments, port in ((answering, probe), (control, beside)):
            own = {**os.environ, **env, "MILLSTREAM_PROBE_PORT": str(port)}
            exits.callback(_end, subprocess.Popen(arguments, env=own, cwd=ROOT))
        cache = redis.asyncio.Redis.from_url(given.redis.address)
        exits.push_async_callback(cache.aclose)
        registry = SchemaRegistry.of(given)
        exits.callback(registry.close)
        health = Health()
        exits.callback(health.probe.close)
        asking = AskingPart(given, registry, cache, clock=clock)
        asked = asking.asked(PIPELINE, REQUESTS)
        asking.start(health, exits)
        follower = Follower(given, registry, clock)
        follower.start()
        exits.callback(follower.close)
        outbox = RecordOutbox(given, registry, source="gateway")
        exits.callback(outbox.close)
        models = ModelsEndpoint(follower, outbox, clock, answer_s=60.0, min_health=0.8)
        routes = (
            *generating_routes(given, KafkaAsking(asking.asker, asked, clock), cache, clock),
            *_model_routes(models),
        )
        allowed = frozenset({ASK, MODELS_READ, MODELS_WRITE})
        keys = KeysInMemory(Key(ID, HASH, "acme", "", allowed, NOW))
        application = Application(Admission(Router(routes), Keyring(keys, clock=ManualClock(NOW))))
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port: int = held.getsockname()[1]
        listener = Listener(application, "127.0.0.1", port)
        listener.start()
        exits.push_async_callback(listener.stop, 5)
        made = Site(f"http://127.0.0.1:{port}", fakes)
        exits.push_async_callback(made.http.aclose)
        exits.push_async_callback(made.openai.close)
        async with asyncio.timeout(150):
            while not await _ready(made, f"http://127.0.0.1:{probe}/ready"):
                await asyncio.sleep(0.2)
        for fake in fakes:
            fake.seen.clear()
        yield made


async def _ready(site: Site, probe: str) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            if (await client.get(probe, timeout=5)).status_code != 200:
                return False
        return (await site.http.get("/api/v1/batch/status")).json()["queue"]["capacity"] > 0
    except httpx.HTTPError:
        return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def test_text_goes_through_kafka_and_back_and_models_are_swapped_by_command(site: Site) -> None:
    await _text_goes_through_kafka_and_back(site)
    await _models_are_swapped_by_command(site)


async def _models_are_swapped_by_command(site: Site) -> None:
    """What the routes of the models say, and what answers then."""
    models = "/api/v1/models"
    async with asyncio.timeout(120):  # the controller routes what the process tells of
        while True:
            found = (await site.http.get(models)).json()["models"]
            if found and all(v["state"] in ("active", "ready") for v in found[0]["versions"]):
                break
            await asyncio.sleep(0.05)
    assert (found[0]["model"], found[0]["active"]) == ("generate", "fake")
    versions = {version["version"]: version for version in found[0]["versions"]}
    assert versions["fake"]["tokens_per_s"] > 9 > versions["slow"]["tokens_per_s"] > 0
    assert versions["slow"]["health"] < 0.8

    async def answered_by(prompt: str) -> str:
        answer = await site.http.post("/api/v1/generate", json={"prompt": prompt, "max_tokens": 2})
        assert not answer.json()["degraded"], answer.text
        return str(answer.json()["model"])

    async def swap(target: str) -> httpx.Response:
        return await site.http.post(f"{models}/swap", json={"target": target})

    for fake in site.fakes:
        fake.script, fake.seconds_per_token = [], fake.seconds_per_token if fake.model == "slow" else 0.0
    async with asyncio.timeout(120):  # a probe that a busy machine held up is made again
        while not (await site.http.get(f"{models}/generate:next/swap/safety")).json()["safe"]:
            await asyncio.sleep(0.05)
        while (done := await swap("generate:next")).status_code == 400:
            await asyncio.sleep(0.05)
    assert done.status_code == 200, done.text
    assert (done.json()["previous"], done.json()["target"]) == ("generate:fake", "generate:next")
    assert done.json()["duration_ms"] > 0
    assert await answered_by("After the swap?") == "next"

    back = await site.http.post(f"{models}/rollback", json={"model": "generate"})
    assert (back.status_code, back.json()["target"]) == (200, "generate:fake"), back.text
    assert await answered_by("After the way back?") == "fake"

    unsafe = await swap("generate:slow")
    assert unsafe.status_code == 400
    assert unsafe.json()["failed"] == ["health_score"]
    assert (await swap("generate:nothing")).status_code == 400

    site.fakes[2].script = ["status_500"] * 3
    broken = await swap("generate:next")
    assert broken.status_code == 500, broken.text
    assert "failed its health check 3 times" in broken.json()["detail"]
    assert await answered_by("After the failure?") == "fake"


async def _text_goes_through_kafka_and_back(site: Site) -> None:
    asked: dict[str, Any] = {"prompt": "Tell me.", "max_tokens": 10}
    whole = await site.http.post("/api/v1/generate", json=asked)
    assert (whole.status_code, whole.json()["text"]) == (200, words(10))

    site.fakes[0].seconds_per_token = site.fakes[1].seconds_per_token = 0.05
    loop, times, found = asyncio.get_running_loop(), [], []
    pieces = {"prompt": "In pieces.", "max_tokens": 10, "stream": True}
    async with site.http.stream("POST", "/api/v1/generate", json=pieces) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                times.append(loop.time())
                found.append(json.loads(line[6:]))
    assert "".join(one["text"] for one in found[:-1]) == found[-1]["text"] == words(10)
    assert times[-1] - times[0] > 0.3  # as they come, not at the end

    messages: Any = [{"role": "user", "content": "Tell me."}]
    create = site.openai.chat.completions.create
    said = await create(model="fake", messages=messages, max_tokens=4)
    assert said.choices[0].message.content == words(4)
    stream = await create(model="fake", messages=messages, max_tokens=4, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == words(4)
    with pytest.raises(openai.NotFoundError):
        await create(model="nothing", messages=messages)

    for fake in site.fakes:
        fake.script = ["reset"] * 3
    broken = await site.http.post("/api/v1/generate", json=asked | {"prompt": "Another."})
    assert (broken.status_code, broken.json()["code"]) == (503, "server_lost")
    for fake in site.fakes:
        fake.script = []

    calls = sum(len(fake.seen) for fake in site.fakes)
    kept = await site.http.post("/api/v1/generate", json=asked)  # another request, the same question
    assert kept.json()["statistics"]["cache_hit"]
    assert kept.json()["text"] == words(10)
    assert sum(len(fake.seen) for fake in site.fakes) == calls

    key = {"idempotency-key": "the-same"}
    first = await site.http.post("/api/v1/generate", json=asked, headers=key)
    calls = sum(len(fake.seen) for fake in site.fakes)
    again = await site.http.post("/api/v1/generate", json=asked, headers=key)
    assert again.json() == first.json()
    assert sum(len(fake.seen) for fake in site.fakes) == calls

    task = asyncio.create_task(site.http.post("/api/v1/generate", json=asked | {"max_tokens": 400}))
    await until(lambda: any(len(fake.seen) and fake.open for fake in site.fakes[:2]), within_s=60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: sum(fake.open for fake in site.fakes) == 0, within_s=20)

    async with asyncio.timeout(10):  # the process tells its status each second
        status: dict[str, Any] = {}
        while status.get("last_5_minutes", {}).get("answers", 0) < 6:
            status = (await site.http.get("/api/v1/batch/status")).json()
            await asyncio.sleep(0.1)
    assert len(status["processes"]) == 1
    assert status["last_5_minutes"]["cache_hits"] == 2
    assert status["success_rate"] == pytest.approx(6 / 7)  # one failed; who left does not count
