"""The writer: in order, without gaps, bounded, and nothing that was said to be kept is not."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.clock import ManualClock
from core.errors import InternalError, MillstreamError, Unavailable
from pipelines.audit.entry import BEGUN, DROPPED, ENDED, Chain
from pipelines.audit.writer import AuditWriter
from tests.pipelines.audit.chains import checked, event
from tests.pipelines.audit.log import Log

WITHIN_S = 20.0


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def writer(log: Log) -> Iterator[AuditWriter]:
    made = AuditWriter(Chain("test", host="host"), log, log, ManualClock(), queue=100)  # type: ignore[arg-type]
    made.start()
    yield made
    log.away = False
    made.close(WITHIN_S)


def test_many_threads_make_one_chain_without_gaps(writer: AuditWriter, log: Log) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: writer.kept(event(n), WITHIN_S), range(200)))
    writer.close(WITHIN_S)
    assert [one.sequence for one in log.arrived] == list(range(202))
    assert (log.arrived[0].action, log.arrived[-1].action) == (BEGUN, ENDED)
    assert {one.target for one in log.arrived[1:-1]} == {f"fraud:{n}" for n in range(200)}
    assert checked(log.arrived).chains[writer.writer].findings == []


def test_what_was_not_acknowledged_comes_again_as_it_was_and_nothing_overtakes_it(
    writer: AuditWriter, log: Log
) -> None:
    log.away = True
    outcomes: list[MillstreamError | None] = []
    for number in range(20):
        writer.take(event(number), outcomes.append)
    assert log.asked.wait(WITHIN_S)
    assert outcomes == []
    log.away = False
    writer.close(WITHIN_S)
    assert outcomes == [None] * 20
    chain = checked(log.arrived).chains[writer.writer]
    first = {one.sequence: one for one in reversed(log.arrived)}
    assert sorted(first) == list(range(22))
    assert all(first[one.sequence] == one for one in log.arrived)
    assert not list(chain.gaps())


def test_what_is_not_kept_in_time_says_so(writer: AuditWriter, log: Log) -> None:
    log.away = True
    writer.take(event())
    assert log.asked.wait(WITHIN_S)
    with pytest.raises(Unavailable) as refused:
        writer.kept(event(), 0.01)
    assert refused.value.code == "audit_unavailable"


def test_what_does_not_fit_is_counted_and_told_by_the_next_entry(writer: AuditWriter, log: Log) -> None:
    log.away = True
    writer.take(event())
    assert log.asked.wait(WITHIN_S)
    refused: list[MillstreamError | None] = []
    for number in range(150):
        writer.take(event(number))
    writer.take(event(), refused.append)
    assert [error.code for error in refused if error is not None] == ["audit_unavailable"]
    log.away = False
    until_empty = threading.Event()
    while not until_empty.wait(0.01):
        if writer.waiting == 0:
            break
    writer.kept(event(999), WITHIN_S)
    kept = {one.sequence: one for one in log.arrived}
    told = sum(int(one.detail.get(DROPPED, "0")) for one in kept.values())
    assert told + len(kept) == 1 + 1 + 150 + 1 + 1  # the beginning, all that was tried
    assert told > 0


def test_an_event_that_is_none_ends_nothing(writer: AuditWriter, log: Log) -> None:
    with pytest.raises(InternalError):
        writer.kept(event(at=None), WITHIN_S)
    writer.kept(event(7), WITHIN_S)
    assert [one.sequence for one in log.arrived] == [0, 1]


def test_a_writer_that_wrote_nothing_leaves_no_chain(writer: AuditWriter, log: Log) -> None:
    writer.close(WITHIN_S)
    assert log.arrived == []
