"""Writing a chain to Kafka: one thread that makes entries of events, in the order in which they came.

What is told goes into a bounded queue. The thread makes entries of all that wait, produces them under the
writer's name as key, so that a chain lies in one partition, and holds them until Kafka has acknowledged every
one (`acks=all`). What was not acknowledged is sent again, the same bytes in the same order; a reader takes
the first entry of a (writer, sequence), so that a repeat is none. Nothing follows before it is kept.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from core.clock import Clock
from core.errors import InternalError, MillstreamError, Unavailable
from core.telemetry.log import logger
from core.telemetry.metrics import counter, gauge
from pipelines.audit.entry import Chain
from pipelines.audit.event import AuditEvent
from pipelines.outbox import Outbox
from schemas.catalog.security import SECURITY_EVENTS, AuditEntry
from schemas.headers import event_headers

AT_ONCE = 500
BACKOFF_FIRST_S, BACKOFF_LONGEST_S = 0.1, 2.0
AWAY = "audit_unavailable"
_MEND = "look at the brokers and the schema registry; `millstream apply` makes the topic"
_log = logger("audit")
_WRITTEN = counter("audit_entries_total", "Entries that Kafka keeps, by outcome", ["outcome"])
_DROPPED = counter("audit_dropped_total", "Events that did not fit into the queue; the next entry tells them")
_WAITING = gauge("audit_waiting", "Events and entries that wait to be kept")

Done = Callable[[MillstreamError | None], None]


class Encodes(Protocol):
    """The part of a codec that is needed."""

    def warm(self) -> None: ...
    def encode(self, record: Any) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Item:
    event: AuditEvent
    done: Done | None
    dropped: int


class AuditWriter:
    """Owns a chain. Every method but `run` may be called from any thread and none of them blocks."""

    def __init__(self, chain: Chain, outbox: Outbox, codec: Encodes, clock: Clock, *, queue: int) -> None:
        self._chain = chain
        self._outbox = outbox
        self._codec = codec
        self._clock = clock
        self._most = queue
        self._waiting: deque[_Item] = deque()
        self._dropped = 0
        self._held = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self.problem: str | None = None

    @property
    def writer(self) -> str:
        return self._chain.writer

    @property
    def waiting(self) -> int:
        """Events that nobody keeps yet."""
        return len(self._waiting) + self._held

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises Unavailable while Kafka does not keep what it is given, InternalError where none writes."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._stopping:
            raise InternalError("the thread that writes the audit trail has ended")
        if self.problem is not None:
            raise Unavailable(f"the audit trail cannot be kept: {self.problem}", code=AWAY, mend=_MEND)

    def take(self, event: AuditEvent, done: Done | None = None) -> None:
        """Write it soon. `done` is called once, from the writer's thread, when Kafka has it; for an event
        that does not fit, at once, with the error. Without `done` that is counted and told."""
        with self._wake:
            if len(self._waiting) + self._held < self._most and not self._stopping:
                self._waiting.append(_Item(event, done, self._dropped))
                self._dropped = 0
                self._wake.notify()
                return
            self._dropped += 1
        _DROPPED.inc()
        if done is not None:
            done(Unavailable("too much waits for the audit trail", code=AWAY, mend=_MEND))

    def kept(self, event: AuditEvent, within_s: float) -> None:
        """`take`, and wait; blocks. Raises Unavailable where it is not kept in time; it may be later."""
        outcome: list[MillstreamError | None] = []
        there = threading.Event()

        def done(error: MillstreamError | None) -> None:
            outcome.append(error)
            there.set()

        self.check()
        self.take(event, done)
        if not there.wait(within_s):
            raise Unavailable(f"the audit trail was not kept within {within_s:g} s", code=AWAY, mend=_MEND)
        if outcome[0] is not None:
            raise outcome[0]

    def close(self, within_s: float) -> None:
        """Write what waits and the end of the chain, at most so long; then stop. Blocks."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(within_s)
        if self._thread.is_alive() or self._waiting:
            _log.warning(
                "the audit trail was left with entries that nobody keeps", waiting=len(self._waiting)
            )

    def _run(self) -> None:
        with suppress(Exception):  # so that the first entry needs no registry
            self._codec.warm()
            self._outbox.open(SECURITY_EVENTS.name)
        while True:
            with self._wake:
                while not self._waiting and not self._stopping:
                    self._wake.wait()
                items = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                ending = self._stopping and not self._waiting
                self._held = len(items)
            entries = [self._chain.begin(self._clock.now())] if items and not self._chain.begun else []
            items = [item for item in items if self._added(item, entries)]
            if ending and self._chain.begun:
                entries.append(self._chain.end(self._clock.now()))
            self._keep(entries)
            self._held = 0
            _WAITING.set(len(self._waiting))
            for item in items:
                if item.done is not None:
                    item.done(None)
            if ending:
                self._outbox.discard()
                return

    def _added(self, item: _Item, entries: list[AuditEntry]) -> bool:
        """Whether the event could be made an entry; a fault in one must not end the trail of all."""
        try:
            entries.append(self._chain.add(item.event, dropped=item.dropped))
        except Exception:
            _log.exception("an event is no entry of the audit trail", action=str(item.event.action)[:100])
            if item.done is not None:
                item.done(InternalError("the event is no entry of the audit trail"))
            return False
        return True

    def _keep(self, entries: list[AuditEntry]) -> None:
        """Until Kafka has acknowledged all of them."""
        delay = BACKOFF_FIRST_S
        while entries:
            try:
                for entry in entries:
                    self._send(entry)
                self._outbox.settle()
            except Exception as problem:
                self._failed(problem)
                _WAITING.set(len(self._waiting) + len(entries))
                threading.Event().wait(delay)
                delay = min(delay * 2, BACKOFF_LONGEST_S)
                continue
            if self.problem is not None:
                _log.info("the audit trail is kept again", after=self.problem)
                self.problem = None
            for entry in entries:
                _WRITTEN.labels(entry.outcome).inc()
            return

    def _send(self, entry: AuditEntry) -> None:
        self._outbox.send(
            SECURITY_EVENTS.name,
            key=entry.writer,
            value=self._codec.encode(entry),
            headers=event_headers(
                id=entry.id,
                source=entry.writer,
                type=AuditEntry.spec().full_name,
                time=entry.at,
                tenant=entry.tenant,
                received_at=entry.at,
            ),
        )

    def _failed(self, problem: Exception) -> None:
        said = (problem.what if isinstance(problem, MillstreamError) else repr(problem)).splitlines()[0][:300]
        if self.problem is None:
            _log.warning("the audit trail cannot be kept; it is tried again", reason=said)
        self.problem = said
        self._outbox.discard()
