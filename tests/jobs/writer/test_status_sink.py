"""The order of the status sink: stored, then told, then done; and what a crash in between leads to."""

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from msgspec import to_builtins

from core.clock import ManualClock
from core.errors import Unavailable
from jobs.writer.chunk import Chunk
from jobs.writer.errors import BadRecord
from jobs.writer.sinks.status import ArrivalSink, StatusSink
from schemas.catalog.alerts import Alert
from schemas.catalog.decisions import Decision, StatusChange, Verdict
from schemas.codec import arrow_schema
from schemas.keys import key_of
from schemas.record import Record
from schemas.topic import Topic
from tests.jobs.writer.deployed import Swipe, plan_of
from tests.jobs.writer.memory_store import MemoryStatusStore
from tests.jobs.writer.samples import START, TENANT, FakeMessage, decision, verdict

PLAN = plan_of("unit")


class Plain:
    """A codec whose bytes are the record itself."""

    def encode(self, one: Record) -> Record:
        return one


class FakeOutbox:
    """Remembers what was acknowledged; fails the next `failures` settles."""

    def __init__(self, store: MemoryStatusStore) -> None:
        self.store = store
        self.failures = 0
        self.queued: list[tuple[str, str, Any, int]] = []
        self.acknowledged: list[tuple[str, str, Any, int]] = []

    def send(self, topic: str, *, key: str, value: Any, headers: Any, partition: int = -1) -> None:
        if isinstance(value, StatusChange):
            stored = self.store.status_of(value.tenant, value.id)
            assert stored is not None, "told before it was stored"
            assert stored[1] >= value.rank, "told before it was stored"
        self.queued.append((topic, key, value, partition))

    def settle(self) -> None:
        queued, self.queued = self.queued, []
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        self.acknowledged += queued

    def discard(self) -> None:
        self.queued.clear()


def made() -> tuple[StatusSink, MemoryStatusStore, FakeOutbox]:
    store = MemoryStatusStore()
    outbox = FakeOutbox(store)
    codecs: Any = {PLAN.status.name: Plain(), PLAN.alerts.name: Plain()}
    clock = ManualClock(at=START + timedelta(milliseconds=110))
    return StatusSink(PLAN, store, outbox, codecs, clock), store, outbox  # type: ignore[arg-type]


def chunk(topic: Topic, records: list[Any], partition: int = 1) -> Chunk:
    of: Any = {PLAN.results.name: Decision, PLAN.labels.name: Verdict, PLAN.source.name: Swipe}[topic.name]
    schema = arrow_schema(of.spec())
    rows = [to_builtins(one, builtin_types=(type(START),)) for one in records]
    messages = tuple(
        FakeMessage(
            offset,
            at_partition=partition,
            on_topic=topic.name,
            named=key_of(one.tenant, getattr(one, str(of.spec().entity))).encode(),
        )
        for offset, one in enumerate(records)
    )
    return Chunk(topic, pa.RecordBatch.from_pylist(rows, schema=schema), messages)


def told(outbox: FakeOutbox, kind: type[Any]) -> list[Any]:
    return [value for _, _, value, _ in outbox.acknowledged if isinstance(value, kind)]


def test_decisions_are_stored_and_told_with_key_and_partition_of_the_input() -> None:
    sink, store, outbox = made()
    sink.write(chunk(PLAN.results, [decision("1", status="blocked"), decision("2")], partition=1))
    assert store.status_of(TENANT, "1") == ("blocked", 1)
    assert [(topic, key, partition) for topic, key, _, partition in outbox.acknowledged] == [
        (PLAN.status.name, "acme|card-1", 1),
        (PLAN.alerts.name, "acme|card-1", -1),
        (PLAN.status.name, "acme|card-2", 1),
    ]
    changes = told(outbox, StatusChange)
    assert [change.store_ms for change in changes] == [10.0, 10.0]


def test_after_a_crash_between_storing_and_telling_the_first_decision_is_told() -> None:
    first, store, outbox = made()
    outbox.failures = 1
    with pytest.raises(Unavailable):
        first.write(chunk(PLAN.results, [decision("1", status="blocked", score=91.0)]))
    assert store.status_of(TENANT, "1") == ("blocked", 1)
    assert outbox.acknowledged == []
    second, _, _ = made()  # the next process: same store, remembers nothing
    second._store = store
    second._outbox = outbox  # type: ignore[assignment]
    other = decision("1", status="confirmed", score=3.0)  # read again, or scored again, differently
    second.write(chunk(PLAN.results, [other]))
    [change] = told(outbox, StatusChange)
    assert (change.status, change.result.score) == ("blocked", 91.0)
    [warning] = told(outbox, Alert)
    assert warning.id == "transaction_blocked:1"


def test_a_later_result_of_a_told_transaction_is_not_told_again() -> None:
    sink, _, outbox = made()
    for _ in range(3):
        sink.write(chunk(PLAN.results, [decision("1", status="blocked")]))
    assert len(told(outbox, StatusChange)) == 1
    assert len(told(outbox, Alert)) == 1


def test_what_was_not_acknowledged_is_told_again_by_the_same_process() -> None:
    sink, _, outbox = made()
    outbox.failures = 1
    with pytest.raises(Unavailable):
        sink.write(chunk(PLAN.results, [decision("1"), decision("2")]))
    sink.write(chunk(PLAN.results, [decision("1"), decision("2")]))
    assert [change.id for change in told(outbox, StatusChange)] == ["1", "2"]


def test_verdicts_are_told_with_rank_2() -> None:
    sink, store, outbox = made()
    sink.write(chunk(PLAN.results, [decision("1", status="in_review")]))
    sink.write(chunk(PLAN.labels, [verdict("1", "legitimate")]))
    assert store.review_state(TENANT, "1") == "decided"
    assert [(one.rank, one.status) for one in told(outbox, StatusChange)] == [
        (1, "in_review"),
        (2, "confirmed"),
    ]


def test_a_verdict_that_is_no_verdict_is_a_bad_record_and_nothing_is_told() -> None:
    sink, _, outbox = made()
    with pytest.raises(BadRecord):
        sink.write(chunk(PLAN.labels, [verdict("1", "perhaps")]))
    assert outbox.acknowledged == outbox.queued == []


def test_another_entity_under_the_same_id_does_not_choose_the_partition() -> None:
    sink, _, outbox = made()
    sink.write(chunk(PLAN.results, [decision("1")], partition=0))
    sink._told.clear()
    sink.write(chunk(PLAN.results, [decision("1", entity="another")], partition=1))
    assert [(key, partition) for _, key, _, partition in outbox.acknowledged] == [
        ("acme|card-1", 0),
        ("acme|card-1", -1),
    ]


def test_events_become_provisional_rows() -> None:
    store = MemoryStatusStore()
    sink = ArrivalSink(PLAN, store, ManualClock())
    swipe = Swipe(tenant=TENANT, id="9", card_id="c", occurred_at=START, amount_cents=5)
    sink.write(chunk(PLAN.source, [swipe, swipe]))
    assert store.status_of(TENANT, "9") == ("provisional", 0)
