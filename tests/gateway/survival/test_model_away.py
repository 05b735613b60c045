"""A gateway whose model, or model's server, does not answer: what is told, that it is then left alone, and
that it is asked again when it is well."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from subprocess import Popen
from typing import Any

import httpx
import pytest

from core.errors import Unavailable
from gateway.circuits import BREAKING
from gateway.client import GatewayClient
from tests.asking.world import payment
from tests.gateway.survival.site import ROOT, WITHIN_S, Site
from tests.llm_fake import FakeServer, fake_server
from tests.operators.generating import words
from tests.stack_fixture import free_ports

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

GENERATE, CHAT = "/api/v1/generate", "/v1/chat/completions"
BUSY = ["status_503"] * 1_000


async def until(good: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await good():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def answering(site: Site) -> AsyncIterator[FakeServer]:
    """A server that does as it is told, and the process that asks it."""
    async with fake_server() as fake:
        (port,) = free_ports(1)
        own = {"MILLSTREAM_LLM__URL": f"{fake.model}={fake.url}", "MILLSTREAM_PROBE_PORT": str(port)}
        process = Popen([sys.executable, "-m", "cli", "run", "generating"], env=os.environ | own, cwd=ROOT)
        try:
            async with httpx.AsyncClient(timeout=WITHIN_S) as http:

                async def ready() -> bool:
                    assert process.poll() is None, "the process has ended"
                    try:
                        return (await http.get(f"http://127.0.0.1:{port}/ready")).status_code == 200
                    except httpx.TransportError:
                        return False

                await until(ready, "prompts are answered")
            yield fake
        finally:
            process.terminate()
            process.wait(WITHIN_S)


async def test_it_is_told_left_alone_and_asked_again(site: Site) -> None:
    headers = {"authorization": f"Bearer {site.key('model-away')}"}
    infer = f"/api/v1/pipelines/{site.scored.pipeline}/infer"
    prompts = iter(range(1_000_000))

    def bodies(route: str) -> dict[str, Any]:
        if route == infer:
            return payment(ms=5000)
        asked = f"Tell me {next(prompts)}."  # another each time, or it would be answered from the cache
        if route == CHAT:
            return {"model": "fake", "messages": [{"role": "user", "content": asked}], "max_tokens": 4}
        return {"prompt": asked, "max_tokens": 4}

    async with (
        answering(site) as fake,
        httpx.AsyncClient(base_url=site.urls[0], headers=headers, timeout=WITHIN_S) as http,
        GatewayClient(site.urls[0], site.key("model-away")) as client,
    ):

        async def ask(route: str, **more: Any) -> httpx.Response:
            return await http.post(route, json=bodies(route) | more)

        async def works(route: str) -> bool:
            return (await ask(route)).status_code == 200

        for route in (GENERATE, CHAT, infer):
            await until(lambda: works(route), f"{route} is answered")  # noqa: B023
        fake.script = list(BUSY)
        site.breaks.touch()
        codes = {GENERATE: "server_busy", CHAT: "server_busy", infer: "model_unavailable"}
        for route, code in codes.items():
            for _ in range(BREAKING.failures):
                assert told(route, await ask(route)) == code
            seen = len(fake.seen)
            for _ in range(3):
                assert told(route, await ask(route)) == "circuit_open"
            if route != infer:
                assert told(route, await ask(route, stream=True)) == "circuit_open", "and no stream"
                assert len([one for one in fake.seen[seen:] if one["max_tokens"] == 4]) == 0, "left alone"
        async with client.stream() as stream:
            with pytest.raises(Unavailable) as refused:
                await stream.ask(site.scored.pipeline, payment(ms=5000))
            assert refused.value.code == "circuit_open"

        # through the balancer another gateway, which knows nothing of it yet, says the same or what is wrong
        async with httpx.AsyncClient(base_url=site.url, headers=headers, timeout=WITHIN_S) as public:
            answer = await public.post(GENERATE, json=bodies(GENERATE), headers={"idempotency-key": "k-1"})
            assert told(GENERATE, answer) in ("server_busy", "circuit_open")
            event = f"/api/v1/pipelines/{site.scored.pipeline}/events"
            assert (await public.post(event, json=payment(ms=5))).status_code == 202
        other = {"authorization": f"Bearer {site.key('another')}"}
        assert told(infer, await http.post(infer, json=bodies(infer), headers=other)) == "model_unavailable"

        fake.script = []
        site.breaks.unlink()
        for route in codes:
            await until(lambda: works(route), f"{route} is answered again")  # noqa: B023
            for _ in range(2 * BREAKING.failures):
                assert await works(route)
        whole = (await ask(GENERATE)).json()
        assert (whole["text"], whole["degraded"]) == (words(4), False)


def told(route: str, answer: httpx.Response) -> str:
    """The code of a 503, which has its route's form and says when to come back."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    if route == CHAT:
        error = answer.json()["error"]
        assert error["type"] == "server_error"
        return str(error["code"])
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["retryable"]) == (503, True)
    assert problem["request_id"] == answer.headers["x-request-id"]
    return str(problem["code"])
