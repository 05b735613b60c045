"""Two gateways behind the balancer, run by a supervisor on the session's services, and what answers them."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from confluent_kafka import Consumer, Producer, TopicPartition

from core.settings import Settings
from gateway.keys import create_key
from pipelines.plan import ScoringPlan
from schemas.broker import consumer, producer, watermarks
from schemas.catalog.decisions import StatusChange
from schemas.codec import RecordCodec
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from stack.local import Stack
from stack.unit import JobSpec
from tests.asking.world import Process

ROOT = Path(__file__).resolve().parents[3]
GATEWAYS = ("gateway", "gateway-2")
TENANT = "acme"
WITHIN_S = 180.0


def until(good: Callable[[], Any], what: str, seen: Callable[[], object] = lambda: "") -> Any:
    """Poll until it gives something true; fails with what was `seen` last."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := good()):
        assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what} {seen()}"
        time.sleep(0.02)
    return found


async def until_in_loop(good: Callable[[], Any], what: str) -> None:
    """The same beside others in an event loop; `good` must not block."""
    deadline = time.monotonic() + WITHIN_S
    while not good():
        assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what}"
        await asyncio.sleep(0.02)


@dataclass
class Site:
    """`stack` has the balancer and the gateways, `services` what they lean on. Both gateways serve two small
    pipelines, `POST /events` and prompts. `scored` is answered by a formula, which raises while the file
    `breaks` exists; `echoed` by whom a test starts."""

    services: Stack
    stack: Stack
    settings: Settings
    scored: ScoringPlan
    echoed: ScoringPlan
    breaks: Path
    keys: dict[str, str] = field(default_factory=dict)
    codecs: dict[str, RecordCodec[StatusChange]] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Of the balancer."""
        return f"http://127.0.0.1:{self.settings.gateway.port}"

    @property
    def urls(self) -> list[str]:
        """Of the gateways themselves."""
        return [f"http://127.0.0.1:{port}" for port in self.settings.balancer.ports]

    def key(self, tenant: str = TENANT) -> str:
        if tenant not in self.keys:
            self.keys[tenant] = create_key(self.settings, tenant, name="test")
        return self.keys[tenant]

    def http(self, url: str | None = None, tenant: str = TENANT) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key(tenant)}"}
        return httpx.Client(base_url=url or self.url, headers=headers, timeout=WITHIN_S)

    # -- the gateways ---------------------------------------------------------------------------------

    def add_gateways(self) -> None:
        arguments = ("tests.asking.processes", "site-gateway", self.scored.pipeline, self.echoed.pipeline)
        for name, port in zip(GATEWAYS, self.settings.balancer.ports, strict=True):
            own = {"MILLSTREAM_GATEWAY__HOST": "127.0.0.1", "MILLSTREAM_GATEWAY__PORT": str(port)}
            spec = JobSpec(
                name=name, argv=(sys.executable, "-m", *arguments), env=own, probe_port=port, cwd=str(ROOT)
            )
            self.stack.add_job(spec)
        self.wait_usable()

    def kill(self, name: str) -> None:
        """SIGKILL to a gateway; returns when it, or rather the next one, is used again."""
        before = self.stack.unit(name)
        assert before.pid is not None, before
        os.kill(before.pid, signal.SIGKILL)
        until(lambda: self.stack.unit(name).restarts > before.restarts, f"{name} is started again")
        self.wait_usable()

    def drain(self, name: str) -> None:
        """SIGTERM to a gateway; returns when the next one is used."""
        before = self.stack.unit(name)
        self.stack.restart(name)
        until(lambda: self.stack.unit(name).pid not in (None, before.pid), f"{name} is started again")
        self.wait_usable()

    def wait_usable(self) -> None:
        """Until both gateways have all that they need, and the balancer uses them."""
        for url in self.urls:
            until(lambda: self.complete(url), f"{url} is complete", lambda: _told(url))  # noqa: B023
        until(lambda: self.told("membership_healthy") == len(GATEWAYS), "the balancer uses both")

    def complete(self, url: str) -> bool:
        try:
            ready = httpx.get(f"{url}/ready", timeout=5).status_code == 200
            return ready and httpx.get(f"{url}/health", timeout=5).json()["status"] == "ok"
        except httpx.HTTPError:
            return False

    def told(self, name: str) -> int:
        """A counter or gauge of the balancer about the gateways."""
        admin, name = self.settings.balancer.admin_port, f"cluster.gateways.{name}"
        try:
            found = httpx.get(f"http://127.0.0.1:{admin}/stats", params={"filter": f"^{name}$"}, timeout=60)
        except httpx.HTTPError:
            return 0
        return int(found.text.partition(": ")[2] or 0)

    def metric(self, name: str) -> float:
        """A metric without labels, over both gateways."""
        found = 0.0
        for url in self.urls:
            lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
            found += sum(float(line.split()[1]) for line in lines if line.startswith(f"millstream_{name} "))
        return found

    # -- what answers ---------------------------------------------------------------------------------

    def start(self, kind: str, plan: ScoringPlan, *more: str, **env: str) -> Process:
        """An answering process (`tests.asking.processes`); returns at once."""
        made = Process(kind, plan.pipeline, env, *more)
        self.processes.append(made)
        return made

    # -- what is pushed -------------------------------------------------------------------------------

    def push(self, plan: ScoringPlan, ids: Iterable[str], *, tenant: str = TENANT) -> None:
        """Decided statuses, as the writer tells of them; returns when Kafka has them."""
        codec, failed = self._codec(plan), list[Any]()
        for id in ids:
            self._producer.produce(
                plan.status.name,
                value=codec.encode(decided(plan, id, tenant)),
                key=key_of(tenant, id),
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
        assert self._producer.flush(WITHIN_S) == 0
        assert not failed

    @cached_property
    def _producer(self) -> Producer:
        return producer(self.settings, delivery_timeout_ms=int(WITHIN_S * 1000))

    def _codec(self, plan: ScoringPlan) -> RecordCodec[StatusChange]:
        if plan.pipeline not in self.codecs:
            registry = SchemaRegistry.of(self.settings)
            self.codecs[plan.pipeline] = RecordCodec(StatusChange, registry, plan.status.subject)
        return self.codecs[plan.pipeline]

    def pushed(self, plan: ScoringPlan, tenant: str = TENANT) -> dict[int, list[str]]:
        """The record on the topic itself: of each partition the tenant's ids, each where it came first."""
        codec = self._codec(plan)
        found: dict[int, list[str]] = {partition: [] for partition in range(plan.status.partitions)}
        for message in everything(self.settings, plan.status.name, plan.status.partitions):
            change = codec.decode(message.value())
            place = found[message.partition()]
            if change.tenant == tenant and change.id not in place:
                place.append(change.id)
        return found

    def close(self) -> None:
        for process in self.processes:
            process.kill()


def decided(plan: ScoringPlan, id: str, tenant: str = TENANT) -> StatusChange:
    now = datetime.now(UTC)
    return StatusChange(
        tenant=tenant, id=id, entity="card", occurred_at=now, pipeline=plan.pipeline, status="confirmed",
        rank=1, changed_at=now,
    )  # fmt: skip


def everything(settings: Settings, topic: str, partitions: int) -> Sequence[Any]:
    """All messages of a topic up to its present end, in the order of each partition."""
    client: Consumer = consumer(settings, None)
    try:
        places = [TopicPartition(topic, partition, 0) for partition in range(partitions)]
        ends = {place.partition: watermarks(client, place, 60)[1] for place in places}
        client.assign(places)
        left = {partition for partition, end in ends.items() if end}
        found: list[Any] = []
        deadline = time.monotonic() + WITHIN_S
        while left:
            assert time.monotonic() < deadline, f"{topic} was not read to its end"
            for message in client.consume(500, timeout=0.2):
                assert message.error() is None, message.error()
                found.append(message)
                if message.offset() + 1 >= ends[message.partition()]:
                    left.discard(message.partition())
        return found
    finally:
        client.close()


def _told(url: str) -> str:
    try:
        return httpx.get(f"{url}/readyz?verbose", timeout=5).text
    except httpx.HTTPError as error:
        return repr(error)
