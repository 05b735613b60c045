"""The process that copies the audit trail from Kafka to PostgreSQL.

Every entry is there once: the row of a (writer, sequence) is the first entry of that name on the topic, a
repeat changes nothing, and offsets are committed once the rows are durable. While PostgreSQL is away the
trail waits on Kafka; the gateway does not notice.
"""

import signal
import threading
from typing import Any

import pyarrow as pa

from core import collector
from core.clock import Clock, SystemClock
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe, ProbeServer
from jobs.audit.sink import AuditSink
from jobs.audit.store import PostgresAuditStore
from jobs.audit.witness import KIND, Witness
from jobs.writer.runner import SinkRunner, Surroundings
from pipelines.audit.copying import GROUP
from pipelines.audit.opening import open_writer
from pipelines.outbox import Outbox, codec_of
from schemas.broker import consumer, gathering, producer
from schemas.catalog.security import SECURITY_EVENTS
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry

HEARTBEAT_S = 60.0
CLOSE_S = 5.0
READY_S = 0.2
_log = logger("audit")


class AuditCopy:
    """One sink in a thread of its own. `run` blocks until `stop`."""

    def __init__(self, settings: Settings, *, group: str = GROUP, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._stop = threading.Event()
        self.probe = Probe(stale_after_s=10.0)
        registry = SchemaRegistry.of(settings)
        codec: RecordCodec[Any] = codec_of(SECURITY_EVENTS, registry)
        writer = open_writer(settings, registry, clock, kind=KIND)
        witness = Witness(writer, clock, interval_s=settings.audit.heads_s)
        store = PostgresAuditStore(settings.postgres.address, application="millstream-audit")
        sink = AuditSink(store, witness, lambda: writer.close(CLOSE_S))
        self.runner = SinkRunner(
            sink,
            Surroundings(
                consumer=lambda: consumer(
                    settings,
                    group,
                    partition_assignment_strategy="cooperative-sticky",
                    **gathering(sink.wait_s * 1000),
                ),
                codecs={SECURITY_EVENTS.name: codec},
                outbox=Outbox(lambda: producer(settings, linger_ms=0)),
                job="audit.trail",
            ),
            self._stop,
            batch=settings.writer.batch,
            beat=lambda name: self.probe.beat(f"loop {name}", within_s=HEARTBEAT_S),
        )
        self.probe.check("sink trail", self.runner.check)
        self.probe.check("chain", writer.check)

    def run(self) -> None:
        pa.array([0])  # imports pandas, once
        thread = threading.Thread(target=self.runner.run, name="sink-trail", daemon=True)
        collector.calm()
        thread.start()
        while not self._stop.wait(READY_S):
            problem = self.runner.problem
            self.probe.set_ready(self.runner.assigned and not problem, problem or "no partitions yet")
        self.probe.set_ready(False, "stopping")
        thread.join(CLOSE_S * 2)
        _log.info("stopped", unfinished=thread.is_alive())

    def stop(self) -> None:
        """Finish the chunk in hand, commit, tell the last heads, leave the group."""
        self._stop.set()


def run(settings: Settings) -> None:
    """The process: serve the probe, copy until SIGTERM or SIGINT, then end gracefully."""
    copy = AuditCopy(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: copy.stop())
    server = ProbeServer(copy.probe).start()
    try:
        copy.run()
    finally:
        copy.probe.close()
        server.stop()
