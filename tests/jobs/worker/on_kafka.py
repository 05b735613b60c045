"""The Kafka side of a worker's tests: topics, inputs, workers as processes, and what came out."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import NewTopic

from core.ids import new_id
from core.settings import settings
from pipelines.changes import apply_topics
from pipelines.plan import ScoringPlan
from schemas import broker
from schemas.avro import schema_text
from schemas.catalog.alerts import ALERTS, Alert
from schemas.catalog.decisions import Decision
from schemas.codec import RecordCodec
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from schemas.topic import Topic
from tests.jobs.worker.payments import EnrichedPayment, plan
from tests.stack_fixture import free_ports

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0


def until(true: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until it is true; fails with `what` after the deadline."""
    end = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.05)


class Bench:
    """Topics of one test's own, and the means to fill and read them."""

    def __init__(self, *, batch: int = 16) -> None:
        self.domain = f"t{new_id().replace('-', '')}"
        self.plan: ScoringPlan = plan(self.domain, batch=batch)
        self.batch = batch
        self.registry = SchemaRegistry.of(settings())
        self.codec: RecordCodec[Any] = RecordCodec(EnrichedPayment, self.registry, self.plan.enriched.subject)
        self.results: RecordCodec[Decision] = RecordCodec(Decision, self.registry, self.plan.results.subject)
        self._create()
        self.producer = broker.producer(settings())

    def _create(self) -> None:
        topics = (self.plan.enriched, self.plan.results, self.plan.enriched.dlq)
        client = broker.admin(settings())
        new = [
            NewTopic(t.name, num_partitions=t.partitions, replication_factor=1, config=t.config(min_insync=1))
            for t in topics
        ]
        for future in client.create_topics(new, operation_timeout=20).values():
            future.result()
        for topic in topics:
            if topic.record is not None:
                self.registry.register(topic.subject, schema_text(topic.record.spec()))

    def send(self, payments: Sequence[Any], *, flush: bool = True) -> None:
        for one in payments:
            key = key_of(one.tenant, one.card_id)
            self.producer.produce(self.plan.enriched.name, key=key, value=self.codec.encode(one))
        if flush:
            assert self.producer.flush(20) == 0

    def send_bytes(self, key: str, value: bytes | None, headers: Any = None) -> None:
        self.producer.produce(self.plan.enriched.name, key=key, value=value, headers=headers)
        assert self.producer.flush(20) == 0

    def messages(self, topic: Topic) -> list[Message]:
        """Everything on the topic, up to its end when asked."""
        consumer = broker.consumer(settings(), None)
        try:
            found: list[Message] = []
            for number in range(topic.partitions):
                low, high = broker.watermarks(consumer, TopicPartition(topic.name, number), 20)
                if high == low:
                    continue
                consumer.assign([TopicPartition(topic.name, number, low)])
                position, end = low, time.monotonic() + 20
                while position < high and time.monotonic() < end:
                    for message in consumer.consume(1000, timeout=0.1):
                        assert message.error() is None, message.error()
                        found.append(message)
                        position = message.offset() + 1
            return found
        finally:
            consumer.close()

    def count(self, topic: Topic) -> int:
        consumer = broker.consumer(settings(), None)
        try:
            marks = [
                broker.watermarks(consumer, TopicPartition(topic.name, n), 20)
                for n in range(topic.partitions)
            ]
            return sum(high - low for low, high in marks)
        finally:
            consumer.close()

    def decisions(self) -> list[tuple[int, Decision]]:
        """(partition, decision) of everything on the results topic."""
        return [(m.partition(), self.results.decode(m.value())) for m in self.messages(self.plan.results)]

    def lag(self) -> int:
        """Inputs whose offset is not committed."""
        consumer = broker.consumer(settings(), f"{self.plan.pipeline}-worker")
        try:
            parts = [TopicPartition(self.plan.enriched.name, n) for n in range(self.plan.enriched.partitions)]
            behind = 0
            for part in consumer.committed(parts, timeout=20):
                low, high = broker.watermarks(consumer, part, 20)
                behind += high - max(part.offset, low)
            return behind
        finally:
            consumer.close()

    @contextmanager
    def worker(self, *, pause_ms: float = 0) -> Iterator["WorkerProcess"]:
        """A worker process; killed at the end if it still runs."""
        process = WorkerProcess(self.domain, self.batch, pause_ms)
        try:
            yield process
        finally:
            process.kill()


class WorkerProcess:
    """`kill` is SIGKILL, `stop` is SIGTERM and the exit status."""

    def __init__(self, domain: str, batch: int, pause_ms: float) -> None:
        (self.port,) = free_ports(1)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.worker.worker_process", domain, str(batch), str(pause_ms)],
            cwd=ROOT,
            env={**os.environ, "MILLSTREAM_PROBE_PORT": str(self.port)},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, path: str) -> tuple[int, str]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=2)
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.text

    def wait_ready(self) -> None:
        until(lambda: self.ask("/ready")[0] == 200, "the worker is ready")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(timeout=30)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=10)


def end_of_alerts() -> int:
    reader = broker.consumer(settings(), None)
    try:
        return broker.watermarks(reader, TopicPartition(ALERTS.name, 0), 20)[1]
    finally:
        reader.close()


class Alerts:
    """What comes on the alerts topic from now on, of one source."""

    def __init__(self, source: str) -> None:
        apply_topics([ALERTS], settings())
        self._source = source
        self._start = end_of_alerts()
        self._codec: RecordCodec[Alert] = RecordCodec(Alert, SchemaRegistry.of(settings()), ALERTS.subject)

    def all(self) -> list[Alert]:
        reader = broker.consumer(settings(), None)
        try:
            end, position, found = end_of_alerts(), self._start, list[Alert]()
            reader.assign([TopicPartition(ALERTS.name, 0, position)])
            while position < end:
                for message in reader.consume(100, timeout=0.05):
                    assert message.error() is None
                    found.append(self._codec.decode(message.value() or b""))
                    position = (message.offset() or 0) + 1
            return [alert for alert in found if alert.source == self._source]
        finally:
            reader.close()

    def kinds(self) -> list[str]:
        return [alert.kind for alert in self.all()]
