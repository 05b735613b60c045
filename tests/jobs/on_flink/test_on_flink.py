"""The stream on a real Flink: each event once, with the features that DuckDB computes, whatever happens."""

import random
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from os import kill
from signal import SIGKILL

import pytest

from core.settings import settings
from features.judge.verify import VerifyReport, verify
from jobs.on_flink.restore_points import restore_points
from jobs.on_flink.submit import FlinkJob
from stack.local import Stack
from tests.jobs.on_flink.live import Live, as_table, java_parts, repeated, wait_for
from tests.jobs.on_flink.payments import ACTIVITY, Names, Payment

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

BEGIN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
MILLI = timedelta(milliseconds=1)


@pytest.fixture
def live(stack: Stack) -> Iterator[Live]:
    del stack
    made = Live(settings(), Names(f"t{uuid.uuid4().hex[:8]}").stream)
    try:
        yield made
    finally:
        made.close()


def payment(number: int, millis: float, **more: object) -> Payment:
    given: dict[str, object] = {
        "tenant": "t", "id": str(number), "card_id": f"c{number % 12}",
        "occurred_at": BEGIN + int(millis) * MILLI, "amount_cents": 150 + number * 7919 % 5_000,
        "email_domain": (None, "x", "y", "z")[number % 4], "channel": (None, 1, -3)[number % 3],
    } | more  # fmt: skip
    return Payment(**given)  # type: ignore[arg-type]


def judged(live: Live) -> VerifyReport:
    """The streamed rows against DuckDB over everything that was sent."""
    return verify(ACTIVITY, as_table(live.sent), as_table(live.enriched()))


def bad_bytes(good: bytes) -> list[bytes]:
    """No Avro, unknown schema, truncated, bytes at the end, no UTF-8, a string of two gigabytes, nothing."""
    huge = good[:5] + b"\xfe\xff\xff\xff\x0f" + b"x" * 20
    no_text = good[:5] + b"\x04\xff\xfe" + good[7:]
    unknown = b"\x00" + struct.pack(">i", 999_999) + good[5:]
    return [b"not avro", unknown, good[: len(good) // 2], good + b"\x00", no_text, huge, b"", b"\x00"]


def test_each_event_once_and_equal_to_duckdb_with_repeats_disorder_late_rows_and_poison(live: Live) -> None:
    dice = random.Random(7)
    # 20 ms apart, up to 400 ms out of order (the bound is 500 ms)
    ordered = [payment(n, n * 20 - dice.choice([0, 0, 100, 400])) for n in range(1_500)]
    first, second = ordered[:1_000], ordered[1_000:]
    late = [payment(10_000 + n, n * 10, card_id=f"c{n % 12}") for n in range(24)]
    testing = [
        payment(20_000 + n, 20_100 + n * 30, card_id="thief", amount_cents=cents)
        for n, cents in enumerate([50, 60, 70, 20_000])
    ]
    with live.keeping(quiet=timedelta(seconds=1)):
        for number, sent in enumerate(first):
            live.send([sent])
            if number % 10 == 0:
                live.send([sent])  # a repeat at once
            if number % 100 == 99:
                live.send([first[number - 90]])  # and one much later
                for value in bad_bytes(live.codec.encode(sent)):
                    live.raw(value, at=sent.occurred_at, partition=number // 100 % 3)
        live.send(testing)
        # nothing follows: the quiet stream lets the last rows out
        out = live.settled(1_004, timeout_s=90)
        live.send(late)
        out = live.settled(1_028, timeout_s=30)
        assert {record.id for record in out} == {p.id for p in [*first, *testing, *late]}
        assert repeated(out) == []
        assert {p.id for p in late} <= {record.id for record in out if record.late}
        assert all(record.count_1m is None for record in out if record.late)
        assert sum(record.late for record in out) <= 24 + 50
        assert all(record.source == "tests" and record.traceparent for record in out)
        assert all(record.received_at is not None for record in out)
    report = judged(live)
    assert report.ok
    assert report.checked == 1_028 - report.late
    assert report.rows_evicted > 100
    (alert,) = live.alerts()
    assert (alert.id, alert.subject, alert.severity) == ("testing-20003", "thief", "high")
    assert alert.text == "3 small, then 20000 on thief"
    assert alert.raised_at == testing[-1].occurred_at

    # another disorder bound, the same job: the windows go on where they were, and what is late as well
    behind = payment(30_000, 5)
    with live.keeping(disorder=timedelta(seconds=5), quiet=timedelta(seconds=1)):
        live.send([behind, *second, first[999], second[0]])
        out = live.settled(1_529, timeout_s=90)
        assert repeated(out) == []
    report = judged(live)
    assert report.ok
    assert report.checked == 1_529 - report.late
    assert [record.late for record in out if record.id == behind.id] == [True]
    resumed = [record for record in out if record.id == second[-1].id]
    assert resumed[0].count_1m > 60, "the minute before the stop is in the window"


def feeding(live: Live, stop: threading.Event) -> Callable[[], None]:
    """Feeds 40 events a second with times of now; returns what waits for its end."""

    def feed() -> None:
        number = 0
        while not stop.is_set():
            at = datetime.now(UTC)
            live.send([payment(number, 0, occurred_at=at.replace(microsecond=at.microsecond // 1000 * 1000))])
            number += 1
            stop.wait(0.025)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    return lambda: thread.join(30)


@pytest.mark.parametrize("process", ["flink-taskmanager", "flink-jobmanager"])
def test_a_killed_flink_process_loses_nothing(live: Live, stack: Stack, process: str) -> None:
    stop = threading.Event()
    with live.keeping() as probe:
        ended = feeding(live, stop)
        try:
            wait_for("a first checkpoint", lambda: checkpoints(live) >= 1, 60)
            wait_for("rows", lambda: live.count(live.stream.enriched) >= 50, 60)
            pid = stack.unit(process).pid
            assert pid is not None
            kill(pid, SIGKILL)
            wait_for("the keeper notices", lambda: not probe.readiness()[0], 30)
            wait_for("the job is back", lambda: probe.readiness()[0], 150)
            before = live.count(live.stream.enriched)
            wait_for("rows again", lambda: live.count(live.stream.enriched) >= before + 50, 60)
        finally:
            stop.set()
            ended()
        wait_for(
            "every event out",
            lambda: {record.id for record in live.enriched()} == {sent.id for sent in live.sent},
            60,
        )
    report = judged(live)
    assert report.missing == report.extra == report.mismatched == 0
    assert report.checked == len(live.sent) - report.late
    assert report.late <= len(live.sent) * 0.01


def checkpoints(live: Live) -> int:
    running = live.running()
    return int(live.rest.checkpoints(running[0])["completed"]) if running else 0


@pytest.mark.full
def test_a_damaged_restore_point_is_passed_over(live: Live) -> None:
    job = FlinkJob(live.stream, live.settings, java_parts(live.settings))
    job.submit(None)  # without a keeper, so that nobody resumes it at once
    live.send([payment(n, n * 20) for n in range(200)])
    wait_for("two checkpoints", lambda: checkpoints(live) >= 2, 120)
    for running in live.running():
        live.rest.cancel(running, timeout_s=20)
    newest, _ = restore_points(job.folders)[:2]
    metadata = newest.path / "_metadata"
    metadata.write_bytes(metadata.read_bytes()[: metadata.stat().st_size // 2])  # begins well, does not load
    with live.keeping():
        live.send([payment(n, n * 20) for n in range(200, 300)])
        wait_for(
            "every event out",
            lambda: {record.id for record in live.enriched()} == {sent.id for sent in live.sent},
            60,
        )
    report = judged(live)
    assert report.missing == report.extra == report.mismatched == 0
