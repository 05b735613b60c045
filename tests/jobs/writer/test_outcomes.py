"""What is told of what is stored."""

from dataclasses import replace
from datetime import timedelta

from jobs.writer.outcomes import alert, decided, reviewed
from jobs.writer.status_store import StoredDecision, StoredVerdict
from tests.jobs.writer.samples import START, decision, verdict

STORED_AT = START + timedelta(milliseconds=104)
COMMITTED_AT = START + timedelta(milliseconds=107)


def test_a_decision_is_told_with_the_stored_time_and_how_long_storing_took() -> None:
    stored = StoredDecision(decision("1", status="blocked"), STORED_AT, True)
    change = decided(stored, committed_at=COMMITTED_AT)
    assert (change.status, change.rank, change.changed_at) == ("blocked", 1, STORED_AT)
    assert change.store_ms == 7.0
    assert change.result == stored.decision


def test_a_repeat_tells_the_same_but_for_the_time_of_its_commit() -> None:
    stored = StoredDecision(decision("1"), STORED_AT, True)
    late = START + timedelta(hours=1)
    first = decided(stored, committed_at=COMMITTED_AT)
    again = decided(replace(stored, first=False), committed_at=late)
    assert again.store_ms == 4.0
    assert (again.result, again.changed_at, again.status) == (first.result, first.changed_at, first.status)


def test_clocks_that_disagree_give_no_negative_duration() -> None:
    ahead = decision("1", decided_at=COMMITTED_AT + timedelta(seconds=1))
    assert decided(StoredDecision(ahead, STORED_AT, True), committed_at=COMMITTED_AT).store_ms == 0.0


def test_fraud_becomes_blocked_and_legitimate_confirmed() -> None:
    told = [reviewed(StoredVerdict(verdict("1", word), STORED_AT, True)) for word in ("fraud", "legitimate")]
    assert [(one.status, one.rank, one.verdict) for one in told] == [
        ("blocked", 2, "fraud"),
        ("confirmed", 2, "legitimate"),
    ]


def test_only_a_block_alerts_and_a_repeat_is_the_same_alert() -> None:
    blocked = StoredDecision(decision("1", status="blocked"), STORED_AT, True)
    first, again = alert(blocked), alert(replace(blocked, first=False))
    assert first is not None
    assert first == again
    assert (first.severity, first.kind, first.subject) == ("high", "transaction_blocked", "card-1")
    assert "amount_cents" in first.text
    for status in ("confirmed", "in_review"):
        assert alert(StoredDecision(decision("1", status=status), STORED_AT, True)) is None
