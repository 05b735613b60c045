"""A trail on the real stack, copied by a process of the tests' own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import psycopg
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import NewTopic

from core.clock import SystemClock
from core.ids import new_id
from core.settings import Settings
from jobs.audit.main import AuditCopy
from pipelines.audit.proof import Proof, prove
from pipelines.audit.table import TABLE
from pipelines.changes import apply_topics
from pipelines.outbox import codec_of
from schemas import broker
from schemas.catalog.security import SECURITY_EVENTS, TOPICS, AuditEntry
from schemas.registry import SchemaRegistry

WITHIN_S = 60.0


def until(condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.05)
    return found


class Copying:
    """`AuditCopy` in a thread, from entering to leaving."""

    def __init__(self, settings: Settings) -> None:
        apply_topics(TOPICS, settings)
        self.copy = AuditCopy(settings, clock=SystemClock())
        self._thread = threading.Thread(target=self.copy.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.copy.stop()
        self._thread.join(30)
        self.copy.probe.close()


class Trail:
    """What is stored, what is on Kafka, and breaking both."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def of(self, database: str) -> "Trail":
        """As another database has it."""
        postgres = self.settings.postgres.model_copy(update={"url": database})
        return Trail(self.settings.model_copy(update={"postgres": postgres}))

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.settings.postgres.address, autocommit=True)

    def rows(self, where: str, *values: object) -> list[Any]:
        """(writer, sequence, actor, action, outcome, reason, request_id, detail), in order."""
        with self.connect() as connection:
            if connection.execute("SELECT to_regclass(%s)", (TABLE,)).fetchone() == (None,):
                return []
            return connection.execute(
                "SELECT writer, sequence, actor, action, outcome, reason, request_id, detail"  # type: ignore[arg-type]
                f" FROM {TABLE} WHERE {where} ORDER BY writer, sequence",
                values,
            ).fetchall()

    def prove(self, source: Any = "both", **more: Any) -> Proof:
        return prove(self.settings, source, **more)

    def wait_copied(self, writer: str, sequence: int) -> None:
        """Until the entry is in PostgreSQL."""
        until(
            lambda: self.rows("writer = %s AND sequence = %s", writer, sequence),
            f"{writer}/{sequence} is copied",
        )

    @contextmanager
    def tampered(self, statement: str, writer: str) -> Iterator[None]:
        """A superuser took the triggers off, did this to a writer's rows, put them on; undone at the end."""
        of_writer = f"{TABLE} WHERE writer = %(writer)s"
        with self.connect() as connection:
            connection.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {of_writer}", {"writer": writer})  # type: ignore[arg-type]
            try:
                self._unguarded(connection, (statement,), writer)
                yield
            finally:
                back = (f"DELETE FROM {of_writer}", f"INSERT INTO {TABLE} SELECT * FROM kept")
                self._unguarded(connection, back, writer)

    def _unguarded(
        self, connection: psycopg.Connection[Any], statements: tuple[str, ...], writer: str
    ) -> None:
        connection.execute(f"ALTER TABLE {TABLE} DISABLE TRIGGER USER")
        for statement in statements:
            connection.execute(statement, {"writer": writer})  # type: ignore[arg-type]
        connection.execute(f"ALTER TABLE {TABLE} ENABLE TRIGGER USER")

    def messages(self) -> list[Message]:
        """All of the topic, by partition."""
        reader = broker.consumer(self.settings, None)
        found: list[Message] = []
        try:
            for partition in range(SECURITY_EVENTS.partitions):
                place = TopicPartition(SECURITY_EVENTS.name, partition)
                low, high = broker.watermarks(reader, place, 20)
                place.offset = low
                reader.assign([place])
                while low < high:
                    for message in reader.consume(1000, 0.1):
                        assert message.error() is None
                        found.append(message)
                        low = (message.offset() or 0) + 1
        finally:
            reader.close()
        return found

    def entries(self) -> list[AuditEntry]:
        """What the topic has, repeats and all."""
        registry = SchemaRegistry.of(self.settings)
        codec = codec_of(SECURITY_EVENTS, registry)
        try:
            return [codec.decode(message.value()) for message in self.messages()]  # type: ignore[misc, arg-type]
        finally:
            registry.close()

    def another_topic(self, change: Callable[[list[AuditEntry]], list[AuditEntry]]) -> str:
        """A topic with the same messages, after `change`."""
        name = f"copy-{new_id()}"
        client = broker.admin(self.settings)
        for made in client.create_topics([NewTopic(name, 1, 1)], operation_timeout=20).values():
            made.result()
        registry = SchemaRegistry.of(self.settings)
        codec = codec_of(SECURITY_EVENTS, registry)
        producer = broker.producer(self.settings)
        for entry in change(self.entries()):
            producer.produce(name, key=entry.writer, value=codec.encode(entry))
        assert producer.flush(20) == 0
        registry.close()
        return name


WRITING = """
import sys
from core.clock import SystemClock
from core.settings import settings
from pipelines.audit.event import AuditEvent
from pipelines.audit.opening import open_writer
from schemas.registry import SchemaRegistry

clock = SystemClock()
writer = open_writer(settings(), SchemaRegistry.of(settings()), clock, kind="test")
print(writer.writer, flush=True)
number = 0
while True:
    writer.kept(AuditEvent("acme", "key", "act", "allowed", clock.now(), target=str(number)), 30.0)
    print(number, flush=True)
    number += 1
"""


COPYING = """
import sys
from core.settings import settings
from jobs.audit.main import AuditCopy

AuditCopy(settings(), group=sys.argv[1]).run()
"""


def copying(group: str, database: str) -> "subprocess.Popen[bytes]":
    """A process that copies all of the topic to another database, with offsets of its own."""
    env = os.environ | {"MILLSTREAM_POSTGRES__URL": database}
    return subprocess.Popen([sys.executable, "-P", "-c", COPYING, group], env=env)


def killed_while_writing(after: int) -> tuple[str, int]:
    """A process that writes and waits, killed with SIGKILL once it has so many; its writer, and the last
    number that it knew to be kept."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", WRITING], stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert process.stdout is not None
    writer, last = process.stdout.readline().strip(), -1
    for line in process.stdout:
        last = int(line)
        if last == after:
            process.send_signal(signal.SIGKILL)
    process.wait(20)
    return writer, last
