"""Two gateways behind the balancer, and the workers, killed at random under load: every 202 has one outcome.

What was acknowledged is kept by the test, apart from everything under test; results on their topic, rows,
pushed results and answers are held against that record. Events have no id but their key, so that one made
twice of a repeat would show.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import httpx
import psycopg
import pytest

from cli.deploy_commands import apply_all
from cli.jobs import GATEWAY, job_specs
from cli.stack_commands import local_stack
from core.ids import new_id
from core.settings import settings
from gateway.client import GatewayClient, Listening
from jobs.sources.generated import LABEL, generate
from pipelines import recorded
from stack.balancer import envoy_binary
from tests.integration.scenario import READY_S, Deployed
from tests.stack_fixture import (
    consecutive_ports,
    environment,
    free_ports,
    services_required,
    stack_env,
)

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

EVENTS = "/api/v1/pipelines/fraud/events"
INFER = "/api/v1/pipelines/fraud/infer"
GATEWAYS = ("gateway", "gateway-2")
PUBLISHERS, ASKERS = 6, 1
PAUSE_S = 0.05
WITHIN_S = 180.0


@pytest.fixture(scope="module")
def balanced(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A second installation on the services of the first: a balancer and two gateways, and nothing else."""
    if envoy_binary() is None:
        if services_required():
            pytest.fail("there is no Envoy, and MILLSTREAM_REQUIRE_SERVICES=1")
        pytest.skip("NOT TESTED: there is no Envoy for this platform")
    there, home = deployed.settings, tmp_path_factory.mktemp("balanced")
    (admin,), (first, _) = free_ports(1), consecutive_ports()
    more = {
        "MILLSTREAM_KAFKA__BOOTSTRAP": there.kafka.address,
        "MILLSTREAM_REGISTRY__URL": there.registry.address,
        "MILLSTREAM_FLINK__URL": there.flink.address,
        "MILLSTREAM_REDIS__URL": there.redis.address,
        "MILLSTREAM_POSTGRES__URL": there.postgres.address,
        "MILLSTREAM_BALANCER__GATEWAYS": "2",
        "MILLSTREAM_BALANCER__FIRST_PORT": str(first),
        "MILLSTREAM_BALANCER__ADMIN_PORT": str(admin),
        "MILLSTREAM_GATEWAY__PUBLISH_TIMEOUT_S": "60",  # what a busy machine takes is not what is tested
    }
    with environment(stack_env(home) | more):
        here = settings()
        stack = local_stack(here)
        try:
            stack.up()
            apply_all([deployed.plan], here, jobs=False)
            gateways = [
                spec for spec in job_specs([deployed.plan], here) if spec.name.partition("-")[0] == GATEWAY
            ]
            assert tuple(spec.name for spec in gateways) == GATEWAYS
            for spec in gateways:
                stack.add_job(spec)
            stack.wait_ready(GATEWAYS, READY_S)
            yield Deployed(stack, deployed.plan, here, deployed.model)
        finally:
            stack.down()


def told(balanced: Deployed, name: str) -> int:
    """A counter or gauge of the balancer about the gateways."""
    admin, name = balanced.settings.balancer.admin_port, f"cluster.gateways.{name}"
    found = httpx.get(f"http://127.0.0.1:{admin}/stats", params={"filter": f"^{name}$"}, timeout=60).text
    return int(found.partition(": ")[2] or 0)


def payments(count: int) -> list[dict[str, Any]]:
    """Without ids."""
    rows = generate(count, seed=11).drop_columns(["tenant", "id", LABEL]).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


async def until(good: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not good():
        assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what}"
        await asyncio.sleep(0.02)


@dataclass
class Load:
    """Independent clients with keys, until they are told to stop, and what they were acknowledged.

    others: answers that were no 202, and connections that broke; the same is sent again until it is a 202.
    """

    http: aiohttp.ClientSession
    run: str = field(default_factory=lambda: new_id()[-10:])
    rows: list[dict[str, Any]] = field(default_factory=lambda: payments(200))
    published: set[str] = field(default_factory=set)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    pushed: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._publish(number)) for number in range(PUBLISHERS)]
        tasks += [asyncio.create_task(self._ask(number)) for number in range(ASKERS)]
        try:
            yield
        finally:
            self.stopped = True
            await asyncio.gather(*tasks)

    async def more(self, count: int) -> None:
        """Until so many more were acknowledged."""
        wanted = len(self.published) + count
        await until(lambda: len(self.published) >= wanted, f"{count} more acknowledged")

    async def _publish(self, number: int) -> None:
        made = 0
        while not self.stopped:
            key, made = f"{self.run}-{number}-{made}", made + 1
            event = self._payment(made)
            answer = await self._until_202(EVENTS, event, {"idempotency-key": key})
            assert answer["id"] == key
            self.published.add(key)
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, number: int) -> None:
        made = 0
        while not self.stopped:
            key, made = f"{self.run}-ask-{number}-{made}", made + 1
            question = self._payment(made)
            headers = {"idempotency-key": key, "prefer": "respond-async"}
            await self._until_202(INFER, question, headers)
            self.asked[key] = question
            await asyncio.sleep(PAUSE_S)

    def _payment(self, number: int) -> dict[str, Any]:
        return self.rows[number % len(self.rows)] | {"occurred_at": datetime.now(UTC).isoformat()}

    async def _until_202(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                async with self.http.post(path, json=body, headers=headers) as answer:
                    if answer.status in (
                        200,
                        202,
                    ):  # 200: the repeat of a question that was answered meanwhile
                        return {"id": headers["idempotency-key"]} | dict(await answer.json())
                    self.others[f"{answer.status} {await answer.text()}"] += 1
            except aiohttp.ClientError as error:
                self.others[repr(error)] += 1
            assert time.monotonic() < deadline, self.others
            await asyncio.sleep(PAUSE_S)


def kill(balanced: Deployed, where: Deployed, unit: str) -> None:
    """SIGKILL; returns when the supervisor has it ready again, and the balancer uses both gateways."""
    before, deadline = where.restarts(unit), time.monotonic() + WITHIN_S
    where.kill(unit)
    while where.restarts(unit) == before:
        assert time.monotonic() < deadline, f"{unit} is not started again"
        time.sleep(0.02)
    where.stack.wait_ready([unit], READY_S)
    while told(balanced, "membership_healthy") < len(GATEWAYS):
        assert time.monotonic() < deadline, "the balancer does not use both gateways"
        time.sleep(0.02)


@pytest.mark.parametrize("seed", [1])
async def test_every_202_has_exactly_one_outcome(balanced: Deployed, deployed: Deployed, seed: int) -> None:
    dice, tenant = random.Random(seed), f"test-{new_id()[-10:]}"
    key = balanced.key(tenant)
    workers = ["fraud-worker", "fraud-answering"]
    dice.shuffle(workers)
    rounds = list(zip(dice.sample(GATEWAYS, 2), workers, strict=True))
    retried = told(balanced, "upstream_rq_retry_success")
    state = Listening()
    async with (
        GatewayClient(balanced.url, key) as listener,
        aiohttp.ClientSession(
            balanced.url,
            headers={"authorization": f"Bearer {key}"},
            timeout=aiohttp.ClientTimeout(total=WITHIN_S),
        ) as http,
    ):
        load = Load(http)

        async def listen() -> None:
            async for event in listener.listen("fraud", state=state):
                load.pushed[event.data["id"]] += 1

        listening = asyncio.create_task(listen())
        await asyncio.wait_for(state.subscribed.wait(), READY_S)
        async with load.going():
            for gateway, worker in rounds:
                await load.more(dice.randrange(20, 60))
                await asyncio.gather(
                    asyncio.to_thread(kill, balanced, balanced, gateway),
                    asyncio.to_thread(kill, balanced, deployed, worker),
                )
            assert not load.others, "while a gateway was there, each client saw one success"
            assert told(balanced, "upstream_rq_retry_success") > retried
            await load.more(20)
            await asyncio.to_thread(kill, balanced, balanced, "balancer")
            await load.more(20)
        try:
            await until(lambda: load.published <= load.pushed.keys(), "every result is pushed")
        finally:
            listening.cancel()
    assert load.pushed.keys() == load.published
    assert set(load.pushed.values()) == {1}, "pushed twice"
    with psycopg.connect(balanced.settings.postgres.address) as connection:
        rows = connection.execute(
            "SELECT id, status FROM transactions WHERE tenant = %s AND rank > 0", (tenant,)
        ).fetchall()
    assert Counter(id for id, _ in rows) == Counter(load.published)
    statuses = dict(rows)
    results = await asyncio.to_thread(recorded.read, balanced.plan.results, balanced.settings, tenant=tenant)
    first: dict[str, str] = {}  # the outcome; a worker that was killed may have told it again
    for result in results.select(["id", "status"]).to_pylist():
        first.setdefault(result["id"], result["status"])
    assert first == statuses
    await asyncio.to_thread(both_say_the_same, balanced, key, load, statuses)


def both_say_the_same(balanced: Deployed, key: str, load: Load, statuses: dict[str, str]) -> None:
    """The one outcome of each, from either gateway, and again for who asks again."""
    urls = [f"http://127.0.0.1:{port}" for port in balanced.settings.balancer.ports]
    headers = {"authorization": f"Bearer {key}"}
    clients = [httpx.Client(base_url=url, headers=headers, timeout=60) for url in urls]
    for id in sorted(load.published)[::10]:
        found = [client.get(f"/api/v1/transactions/{id}").raise_for_status().json() for client in clients]
        assert found[0] == found[1]
        assert found[0]["status"] == statuses[id]
    assert load.asked
    deadline = time.monotonic() + WITHIN_S
    for number, (id, question) in enumerate(load.asked.items()):
        path = f"/api/v1/requests/{id}"
        while (first := clients[0].get(path).raise_for_status().json())["state"] == "pending":
            assert time.monotonic() < deadline, first
            time.sleep(0.02)
        assert first["state"] == "answered", first
        if number % 10 == 0:
            assert clients[1].get(path).json() == first
            again = clients[1].post(INFER, json=question, headers={"idempotency-key": id})
            assert (again.status_code, again.json()) == (200, first["answer"])
    for client in clients:
        lines = client.get("/metrics").text.splitlines()
        (accepted,) = [line for line in lines if line.startswith("millstream_gateway_events_accepted_total{")]
        assert float(accepted.rpartition(" ")[2]) > 0, "both were used"
        client.close()
