"""Sinks of the status: provisional rows from events, decisions from results, verdicts from labels.

Decisions and events have a sink each, so that a decision never waits behind a batch of events.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from core.clock import Clock
from jobs.writer.chunk import Chunk
from jobs.writer.errors import BadRecord
from jobs.writer.outcomes import alert, decided, reviewed
from jobs.writer.sink import Direct
from jobs.writer.status_store import Arrival, StatusStore
from pipelines.outbox import UNKNOWN_PARTITION, Outbox
from pipelines.plan import ScoringPlan
from schemas.catalog.alerts import Alert
from schemas.catalog.decisions import Decision, StatusChange, Verdict
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.record import Record
from schemas.topic import Topic

REMEMBERED = 100_000

R = TypeVar("R", bound=Record)


class ArrivalSink(Direct):
    """Events to provisional rows. Done when PostgreSQL has committed.

    Reads with no hurry (50 ms a chunk): until the row is there the gateway answers from its acceptance
    record. Dead-letters the events that cannot be decoded, which are those that Flink skips.
    """

    name = "arrivals"
    wait_s = 0.05
    dead_letters = True

    def __init__(self, plan: ScoringPlan, store: StatusStore, clock: Clock) -> None:
        self._pipeline = plan.pipeline
        self._store = store
        self._clock = clock
        self.topics: Sequence[Topic] = (plan.source,)
        spec = plan.source.record.spec() if plan.source.record else None
        self._entity = (spec.entity if spec else None) or "id"
        self._time = (spec.time if spec else None) or "occurred_at"

    def open(self) -> None:
        self._store.open()

    def write(self, chunk: Chunk) -> None:
        columns = [
            chunk.batch.column(name).to_pylist() for name in ("tenant", "id", self._entity, self._time)
        ]
        arrivals = [Arrival(tenant, id, entity, at) for tenant, id, entity, at in zip(*columns, strict=True)]
        self._store.accept(self._pipeline, arrivals, self._clock.now())

    def close(self) -> None:
        self._store.close()


class StatusSink(Direct):
    """Results and labels to the status. Done when PostgreSQL has committed *and* the status change, and
    for a block the alert, are acknowledged by Kafka; in that order, so what is pushed can be read.

    After a crash in between, the results are read again and told again, from the first stored decision.
    What this process has told already it does not tell twice (the last 100,000).
    """

    name = "status"
    wait_s = 0.0
    dead_letters = True

    def __init__(
        self,
        plan: ScoringPlan,
        store: StatusStore,
        outbox: Outbox,
        codecs: Mapping[str, RecordCodec[Any]],
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._store = store
        self._outbox = outbox
        self._codecs = codecs
        self._clock = clock
        self._told: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        self.topics: Sequence[Topic] = (plan.results, plan.labels)

    def open(self) -> None:
        """Connects to all it needs, the registry by encoding once: without this the first decisions after a
        start waited half a second."""
        self._store.open()
        self._outbox.open(self._plan.status.name)
        now = self._clock.now()
        warning = Alert(
            tenant="", id="", severity="info", kind="", source="", subject="", text="",
            deduplication_key="", raised_at=now,
        )  # fmt: skip
        change = StatusChange(
            tenant="", id="", entity="", occurred_at=now, pipeline="", status="", rank=0, changed_at=now
        )
        self._codecs[self._plan.status.name].encode(change)
        self._codecs[self._plan.alerts.name].encode(warning)

    def write(self, chunk: Chunk) -> None:
        rows = chunk.batch.to_pylist()
        partitions = {
            (row["tenant"], row["id"]): keyed_partition(row, message)
            for row, message in zip(reversed(rows), reversed(chunk.messages), strict=True)
        }
        store = self._decide if chunk.topic.name == self._plan.results.name else self._review
        changes = store(rows)
        for change, warning in changes:
            self._tell(change, partitions[change.tenant, change.id])
            if warning is not None:
                self._warn(warning, change)
        self._outbox.settle()
        for change, _ in changes:
            self._told[change.tenant, change.id, change.rank] = None
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def close(self) -> None:
        self._store.close()
        self._outbox.discard()

    def _decide(self, rows: list[dict[str, Any]]) -> list[tuple[StatusChange, Alert | None]]:
        stored = self._store.decide(records(rows, Decision), self._clock.now())
        committed_at = self._clock.now()
        return [
            (change, alert(one))
            for one in stored
            if self._untold(change := decided(one, committed_at=committed_at))
        ]

    def _review(self, rows: list[dict[str, Any]]) -> list[tuple[StatusChange, Alert | None]]:
        stored = self._store.review(records(rows, Verdict), self._clock.now())
        return [(change, None) for one in stored if self._untold(change := reviewed(one))]

    def _untold(self, change: StatusChange) -> bool:
        return (change.tenant, change.id, change.rank) not in self._told

    def _tell(self, change: StatusChange, partition: tuple[str, int]) -> None:
        key = key_of(change.tenant, change.entity)
        trace = change.result.traceparent if change.result else None
        self._outbox.send(
            self._plan.status.name,
            key=key,
            value=self._codecs[self._plan.status.name].encode(change),
            headers=event_headers(
                id=change.id,
                source=change.pipeline,
                type=StatusChange.spec().full_name,
                time=change.occurred_at,
                tenant=change.tenant,
                received_at=(change.result and change.result.received_at) or change.changed_at,
                traceparent=trace,
            ),
            partition=partition[1] if partition[0] == key else UNKNOWN_PARTITION,
        )

    def _warn(self, warning: Alert, change: StatusChange) -> None:
        self._outbox.send(
            self._plan.alerts.name,
            key=key_of(warning.tenant, warning.subject),
            value=self._codecs[self._plan.alerts.name].encode(warning),
            headers=event_headers(
                id=warning.id,
                source=warning.source,
                type=Alert.spec().full_name,
                time=warning.raised_at,
                tenant=warning.tenant,
                received_at=warning.raised_at,
                traceparent=change.result.traceparent if change.result else None,
            ),
        )


def keyed_partition(row: dict[str, Any], message: Any) -> tuple[str, int]:
    """Key and partition of the input: equal key, equal partition on the status topic."""
    key = message.key() or b""
    return key.decode("utf-8", "replace"), message.partition()


def records(rows: list[dict[str, Any]], kind: type[R]) -> list[R]:
    """The rows as records. Raises BadRecord."""
    try:
        return [msgspec.convert(row, kind) for row in rows]
    except msgspec.ValidationError as problem:
        raise BadRecord(f"no {kind.__name__}: {problem}", code="invalid_record") from problem
