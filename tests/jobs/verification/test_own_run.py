"""A run of a view's own on a real Kafka, with a stream that is slow, loses rows, or dies.

The stream is DuckDB in a thread: what it sends is right, so that only when it comes is on trial.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pytest

from cli.features.verify import verified
from core.errors import Unavailable
from core.settings import settings
from features.feature_rows import row_id
from features.judge.verify_windows import verify_windows
from features.offline.history import compute, first_per_id
from jobs.verification import own_run
from jobs.verification.own_run import Ready, Run, Running, record
from jobs.verification.shadow import shadow_of
from pipelines import recorded
from pipelines.load import load_features
from pipelines.plan import FeaturesPlan, Plan
from schemas.broker import producer
from schemas.codec import RecordCodec
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from stack.local import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]

SALES = load_features("sales")
ROWS = 150
Sending = Callable[[list[tuple[str, bytes]], threading.Event], Iterator[list[tuple[str, bytes]]]]
"""Hands over the rows that are to be sent together, when they are to be sent; ends early when told."""


def stream(sending: Sending) -> Running:
    """Computes every window once all events are there, and sends the rows as `sending` has it."""

    @contextmanager
    def running(plan: Plan, name: str) -> Iterator[Ready]:
        shadow = shadow_of(plan, name)
        assert isinstance(shadow, FeaturesPlan)
        stopping = threading.Event()

        def work() -> None:
            client = producer(settings())
            for rows in sending(encoded(shadow, stopping), stopping):
                for key, value in rows:
                    client.produce(shadow.rows.name, key=key, value=value)
                client.flush(10)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield lambda: True
        finally:
            stopping.set()
            thread.join(30)

    return running


def encoded(plan: FeaturesPlan, stopping: threading.Event) -> list[tuple[str, bytes]]:
    """Key and value of every row, once nothing more is sent to the source."""
    before, events = -1, recorded.read(plan.source, settings())
    while events.num_rows != before or not events.num_rows:
        before = events.num_rows
        stopping.wait(1.0)
        events = recorded.read(plan.source, settings())
    rows = compute(plan.view, first_per_id(events))
    entities, ends = rows["merchant_id"].to_pylist(), rows["window_end"].to_pylist()
    ids = [row_id(entity, end, 0) for entity, end in zip(entities, ends, strict=True)]
    rows = rows.append_column("id", pa.array(ids))
    rows = rows.append_column("entity", rows["merchant_id"])
    rows = rows.append_column("sequence", pa.array([0] * len(ids), pa.int64()))
    registry = SchemaRegistry.of(settings())
    try:
        assert plan.rows.record is not None
        codec = RecordCodec(plan.rows.record, registry, plan.rows.subject)
        (batch,) = rows.combine_chunks().to_batches()
        keys = [key_of(*pair) for pair in zip(rows["tenant"].to_pylist(), entities, strict=True)]
        return [*zip(keys, codec.encode_batch(batch), strict=True)]
    finally:
        registry.close()


def judged(run: Run) -> tuple[int, int, int]:
    report = verify_windows(SALES.view, run.events, run.streamed, late=run.late, watermark=run.until)
    return report.mismatched, report.missing, report.extra


def test_a_stream_that_stands_still_in_the_middle_is_waited_for(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stack
    monkeypatch.setattr(own_run, "STILL_S", 0.5)

    def in_two_parts(
        rows: list[tuple[str, bytes]], stopping: threading.Event
    ) -> Iterator[list[tuple[str, bytes]]]:
        yield rows[: len(rows) // 2]
        stopping.wait(4.0)
        yield rows[len(rows) // 2 :]

    run = record(SALES, settings(), stream(in_two_parts), rows=ROWS, seed=1)
    assert judged(run) == (0, 0, 0)
    assert run.streamed.num_rows > 10


def test_what_a_running_stream_does_not_send_is_lost(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    del stack
    monkeypatch.setattr(own_run, "STILL_S", 0.5)
    monkeypatch.setattr(own_run, "LOST_S", 8.0)  # the first row comes seconds after the last event

    def without_the_first(
        rows: list[tuple[str, bytes]], stopping: threading.Event
    ) -> Iterator[list[tuple[str, bytes]]]:
        yield rows[1:]

    assert judged(record(SALES, settings(), stream(without_the_first), rows=ROWS, seed=2)) == (0, 1, 0)


def test_a_stream_that_has_ended_is_no_judgement(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    del stack
    monkeypatch.setattr(own_run, "STILL_S", 0.2)
    monkeypatch.setattr(own_run, "LOST_S", 1.0)

    @contextmanager
    def dead(plan: Plan, name: str) -> Iterator[Ready]:
        yield lambda: False

    with pytest.raises(Unavailable, match="does not run"):
        record(SALES, settings(), dead, rows=30, seed=2)


def test_only_an_absent_topic_means_that_nothing_is_recorded(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Kafka is away nothing is known: no run of its own is made in its place."""
    asked: list[str] = []

    def no_run(plan: Plan, *_: object, **__: object) -> Run:
        asked.append(plan.pipeline)
        raise InterruptedError

    monkeypatch.setattr(own_run, "record", no_run)
    monkeypatch.setattr(recorded, "TIMEOUT_S", 2.0)
    absent = shadow_of(SALES, "never-applied")
    with pytest.raises(InterruptedError):
        verified(absent)
    assert asked.pop() == "never-applied"
    unreachable = settings().kafka.model_copy(update={"bootstrap": "127.0.0.1:1"})
    away = settings().model_copy(update={"kafka": unreachable})
    with pytest.raises(Unavailable) as raised:
        recorded.read(SALES.source, away)
    assert raised.value.code == "kafka_unavailable"
    assert raised.value.where
    assert raised.value.mend
    monkeypatch.setattr("cli.features.verify.settings", lambda: away)
    monkeypatch.setattr("cli.features.verify._services", lambda **_: stack_is_there())
    with pytest.raises(Unavailable, match="no answer from Kafka"):
        verified(SALES)
    assert not asked


@contextmanager
def stack_is_there() -> Iterator[None]:
    yield
