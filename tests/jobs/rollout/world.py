"""A small pipeline, its workers, the controller, and the means to ask and watch them, on real Kafka."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from confluent_kafka.admin import NewTopic

from core.clock import SystemClock
from core.ids import new_id
from core.settings import settings
from pipelines.outbox import RecordOutbox, codec_of
from pipelines.serving.fleet import Fleet
from pipelines.serving.follower import Follower
from schemas import broker
from schemas.avro import schema_text
from schemas.catalog.alerts import ALERTS, SYSTEM_TENANT, Alert
from schemas.catalog.models import COMMANDS, SERVING_TOPICS, ModelCommand, ModelReply
from schemas.registry import SchemaRegistry
from tests.jobs.rollout.versions import Traits, VersionFolder, version_of
from tests.jobs.worker.on_kafka import ROOT, Bench, until
from tests.jobs.worker.payments import payment
from tests.stack_fixture import free_ports


def create_serving_topics() -> None:
    """The topics that `apply` would create, unless they are there."""
    client, registry = broker.admin(settings()), SchemaRegistry.of(settings())
    there = client.list_topics(timeout=20).topics
    topics = [topic for topic in (*SERVING_TOPICS, ALERTS) if topic.name not in there]
    new = [
        NewTopic(t.name, num_partitions=t.partitions, replication_factor=1, config=t.config(min_insync=1))
        for t in topics
    ]
    for future in (client.create_topics(new, operation_timeout=20) if new else {}).values():
        future.result()
    for topic in (*SERVING_TOPICS, ALERTS):
        if topic.record is not None:
            registry.register(topic.subject, schema_text(topic.record.spec()))


class Process:
    """`kill` is SIGKILL, `stop` is SIGTERM and the exit status."""

    def __init__(self, *arguments: str, **env: str) -> None:
        (self.port,) = free_ports(1)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.rollout.processes", *arguments],
            cwd=ROOT,
            env={**os.environ, **env, "MILLSTREAM_PROBE_PORT": str(self.port)},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/ready", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(timeout=30)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=10)


class World(Bench):
    """Topics, a model and a folder of versions of one test's own; the model is named like the pipeline."""

    def __init__(self, folder: Path, *, batch: int = 16) -> None:
        super().__init__(batch=batch)
        create_serving_topics()
        self.model = self.domain
        self.folder = folder
        self.versions = VersionFolder(folder)
        self.clock = SystemClock()
        self.follower = Follower(settings(), self.registry, self.clock)
        self.outbox = RecordOutbox(settings(), self.registry, source="test")
        self.replies: dict[str, list[ModelReply]] = {}

    def version(self, version: str, **traits: Any) -> None:
        self.versions.put(self.model, version, Traits(**traits))

    @contextmanager
    def running(self) -> Iterator["World"]:
        self.follower.start()
        try:
            self.follower.wait_ready(30)
            yield self
        finally:
            self.follower.close()
            self.outbox.close()

    @contextmanager
    def process(self, *arguments: str, **env: str) -> Iterator[Process]:
        made = Process(*arguments, **env)
        try:
            yield made
        finally:
            made.kill()

    def controller(self) -> Any:
        return self.process("controller", str(self.folder))

    def serving_worker(self) -> Any:
        return self.process("worker", self.domain, str(self.batch), str(self.folder))

    def fleet(self) -> Fleet:
        return self.follower.fleets().get(self.model, Fleet())

    def state(self, version: str) -> str | None:
        return self.fleet().state_of(version)

    def wait_state(self, version: str, state: str, deadline_s: float = 120) -> None:
        until(lambda: self.state(version) == state, f"version {version} is {state}", deadline_s)

    def wait_routed(self, version: str = "1", deadline_s: float = 120) -> None:
        """Until it is active because a controller says so: a worker takes the first champion by itself."""

        def routed() -> bool:
            routing = self.fleet().routing
            live = {route.version for route in routing.routes if route.mode == "live"} if routing else set()
            return live == {version} and self.state(version) == "active"

        until(routed, f"a controller has routed to version {version}", deadline_s)

    def ask(self, kind: str, version: str | None = None, **more: Any) -> str:
        """Send a command; its id."""
        command = ModelCommand(
            tenant=SYSTEM_TENANT,
            id=new_id(),
            model=self.model,
            kind=kind,  # type: ignore[arg-type]
            version=version,
            sender="test",
            sent_at=self.clock.now(),
            **more,
        )
        got = self.replies.setdefault(command.id, [])
        self.follower.expect(command.id, got.append)
        self.outbox.publish(COMMANDS, [command])
        return command.id

    def reply(self, command: str, *, final: bool = True, deadline_s: float = 60) -> ModelReply:
        def there() -> bool:
            return any(not final or one.outcome != "accepted" for one in self.replies[command])

        until(there, f"the reply to {command}", deadline_s)
        return next(one for one in self.replies[command] if not final or one.outcome != "accepted")

    def payments(self, count: int, start: int = 0) -> list[Any]:
        """Distinct payments over 50 cards."""
        return [
            payment(number, 1_000 + number % 7_000, card_id=f"card-{number % 50}")
            for number in range(start, start + count)
        ]

    def stream(self, count: int, *, rate: float, start: int = 0) -> list[Any]:
        """Send so many a second; returns what was sent."""
        sent = self.payments(count, start)
        began = time.monotonic()
        for number in range(0, count, 10):
            self.send(sent[number : number + 10], flush=False)
            self.producer.poll(0)
            time.sleep(max(0.0, began + (number + 10) / rate - time.monotonic()))
        assert self.producer.flush(20) == 0
        return sent

    def alerts(self) -> list[Alert]:
        codec = codec_of(ALERTS, self.registry)
        found = [codec.decode(message.value()) for message in self.messages(ALERTS)]
        return [one for one in found if isinstance(one, Alert)]

    def settled(self) -> None:
        until(lambda: self.lag() == 0, "all inputs are committed")

    def check(self, sent: Sequence[Any]) -> Counter[str]:
        """Every payment has exactly one result, computed by the version that it names; results by version."""
        found = self.decisions()
        counts = Counter(decision.id for _, decision in found)
        wanted = {one.id for one in sent}
        assert set(counts) == wanted, f"missing {len(wanted - set(counts))}"
        assert [id for id, times in counts.items() if times > 1] == []
        amounts = {one.id: one.amount_cents for one in sent}
        by_version: Counter[str] = Counter()
        for _, decision in found:
            assert decision.score is not None
            assert version_of(decision.score, amounts[decision.id]) == decision.model_version, decision
            by_version[decision.model_version] += 1
        return by_version
