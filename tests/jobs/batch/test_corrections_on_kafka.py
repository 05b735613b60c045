"""The deployed form of corrections on a real Kafka: late events are corrected, also after kills."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pyarrow as pa
import pytest

from core.ids import new_id
from core.settings import settings
from features.feature_rows import row_id
from features.offline.history import compute
from pipelines import recorded
from pipelines.changes import apply
from pipelines.load import load_features
from schemas.broker import producer
from schemas.catalog.purchases import Purchase
from schemas.codec import RecordCodec, arrow_schema
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from schemas.topic import Topic
from stack.local import Stack
from tests.features.oracle import same

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]

SALES = load_features("sales")
BEGIN = datetime(2026, 5, 4, 8, tzinfo=UTC)
WITHIN_S = 90.0


@pytest.fixture
def tenant(stack: Stack) -> str:
    apply([SALES], stack.settings)
    return f"late-{new_id()[-8:]}"


def purchases(tenant: str) -> list[dict[str, Any]]:
    dice = random.Random(8)
    return [
        {
            "tenant": tenant, "id": f"{n}", "merchant_id": dice.choice(["a", "b|%"]), "customer_id": "c",
            "occurred_at": BEGIN + n * timedelta(seconds=11), "amount_cents": dice.randrange(9_999),
            "items": dice.randint(1, 3),
        }
        for n in range(200)
    ]  # fmt: skip


def as_table(events: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(events), schema=arrow_schema(Purchase.spec()))


def stream_rows(events: Sequence[dict[str, Any]]) -> pa.Table:
    """What the stream sends of them."""
    rows = compute(SALES.view, as_table(events))
    entities, ends = rows["merchant_id"].to_pylist(), rows["window_end"].to_pylist()
    ids = [row_id(*one, 0) for one in zip(entities, ends, strict=True)]
    more = {"id": pa.array(ids), "entity": rows["merchant_id"]}
    more["sequence"] = pa.array([0] * len(ids), pa.int64())
    for name, column in more.items():
        rows = rows.append_column(name, column)
    return rows


def send(topic: Topic, table: pa.Table, entity: str) -> None:
    registry, client = SchemaRegistry.of(settings()), producer(settings())
    try:
        assert topic.record is not None
        (batch,) = table.combine_chunks().to_batches()
        values = RecordCodec(topic.record, registry, topic.subject).encode_batch(batch)
        keys = zip(table["tenant"].to_pylist(), table[entity].to_pylist(), strict=True)
        for key, value in zip(keys, values, strict=True):
            client.produce(topic.name, key=key_of(*key), value=value)
        assert client.flush(30) == 0
    finally:
        registry.close()


@contextmanager
def correcting() -> Iterator[psutil.Process]:
    """The process that the supervisor starts, with a short period; killed at the end with its pass."""
    more = {"MILLSTREAM_CORRECTIONS__PERIOD_S": "0.3", "MILLSTREAM_PROBE_PORT": "0"}
    command = [sys.executable, "-P", "-m", "cli", "run", "corrections", "--pipeline", "sales"]
    with subprocess.Popen(command, env=os.environ | more) as process:
        job = psutil.Process(process.pid)
        try:
            yield job
        finally:
            for one in [job, *job.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)


def rows_of(tenant: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = recorded.read(SALES.rows, settings(), tenant=tenant).to_pylist()
    return found


def eventually(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_late_events_are_corrected_by_themselves_also_after_the_job_was_killed(tenant: str) -> None:
    events = purchases(tenant)
    late = random.Random(2).sample(events[:-30], 12)
    in_time = [one for one in events if one not in late]
    send(SALES.source, as_table(events), "merchant_id")
    send(SALES.rows, stream_rows(in_time), "merchant_id")
    before = len(rows_of(tenant))
    send(SALES.late, as_table(late[:6]), "merchant_id")
    with correcting():
        eventually(lambda: len(rows_of(tenant)) > before, "the first are corrected")
    with correcting() as job:
        eventually(lambda: bool(job.children()), "a pass has begun")
    send(SALES.late, as_table(late[6:]), "merchant_id")
    wanted = {
        (row["merchant_id"], row["window_end"]): row
        for row in compute(SALES.view, as_table(events)).to_pylist()
    }
    last = max(end for _, end in wanted)

    def newest() -> dict[tuple[str, datetime], dict[str, Any]]:
        rows = sorted(rows_of(tenant), key=lambda row: row["sequence"])
        return {(row["entity"], row["window_end"]): row for row in rows}

    def right() -> bool:
        found = newest()
        names = SALES.view.feature_names
        return all(
            key in found and [found[key][name] for name in names[:2]] == [row[name] for name in names[:2]]
            for key, row in wanted.items()
            if key[1] < last
        )

    with correcting():
        eventually(right, "all are corrected")
    found = newest()
    for key, row in wanted.items():
        if key[1] < last:
            same({name: found[key][name] for name in SALES.view.feature_names},
                 {name: row[name] for name in SALES.view.feature_names})  # fmt: skip
    every = rows_of(tenant)
    assert len({row["id"] for row in every}) == len(every), "nothing was sent twice"
