"""The scoring step on generated rows, against a row-by-row reading of the rules."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from core.clock import ManualClock, to_millis
from core.errors import ModelRefused, Unavailable
from jobs.worker.scoring import Declared, Scored, Scoring
from schemas.catalog.decisions import Decision
from tests.jobs.worker.payments import BANDS, BREAKS, GIVES_NAN, VIEW, Formula, columns, expected, payment

DECLARED = Declared("small", "card_id", "occurred_at", VIEW.feature_names, BANDS, batch=64)


class Store:
    """Every card has 50 payments with a mean of 7; away when told so."""

    def __init__(self, away: bool = False) -> None:
        self.away = away

    def read_rows(self, batch: pa.RecordBatch) -> Mapping[str, pa.Array]:
        if self.away:
            raise Unavailable("connection refused")
        n = batch.num_rows
        return {"count_1h": pa.array([50] * n, pa.int64()), "mean_1h": pa.array([7.0] * n)}


def step(
    payments: list[Any], *, store: Store | None = None, scorer: Formula | None = None, waited_ms: int = 0
) -> tuple[Scored, list[Decision]]:
    clock = ManualClock()
    started = to_millis(clock.now())
    scoring = Scoring(DECLARED, clock=clock, reader=store or Store())
    appended = np.full(len(payments), started - waited_ms, np.int64)
    scored = scoring.step(columns(payments), appended, scorer or Formula(), started_ms=started)
    scored.results.validate(full=True)
    return scored, [msgspec.convert(row, Decision) for row in scored.results.to_pylist()]


def test_every_row_gets_the_decision_of_the_rule() -> None:
    amounts = np.random.default_rng(1).integers(0, 9_900, 200).tolist()
    amounts = [a for a in amounts if a not in (BREAKS, GIVES_NAN)] + [
        7_990,
        7_989,
        7_991,
        1_990,
        1_989,
        1_991,
    ]
    given = [payment(number, amount) for number, amount in enumerate(amounts)]
    scored, decisions = step(given, waited_ms=40)
    assert scored.rows.tolist() == list(range(len(given)))
    assert scored.failed == ()
    for one, decision in zip(given, decisions, strict=True):
        score, name, status = expected(one.amount_cents)
        assert decision.score == pytest.approx(score, abs=1e-4)
        assert (decision.decision, decision.status) == (name, status)
        assert (decision.tenant, decision.id, decision.entity) == (one.tenant, one.id, one.card_id)
        assert decision.occurred_at == one.occurred_at == decision.feature_time
        assert (decision.source, decision.received_at) == (one.source, one.received_at)
        assert (decision.model, decision.model_version, decision.arm) == ("formula", "1", "champion")
        assert decision.assignment_unit == one.card_id
        assert (decision.degraded, decision.level, decision.late) == (False, "live", False)
        assert decision.queue_ms == 40
        assert decision.enriched_at is not None
        assert decision.decided_at - decision.enriched_at == timedelta(milliseconds=40)


def test_block_and_review_carry_their_largest_contributions_and_confirm_none() -> None:
    _, decisions = step([payment(1, 100), payment(2, 9000), payment(3, 5000, mean_1h=20_000.0)])
    assert decisions[0].reasons == []
    # contributions are amount, -100 * count, mean / 2: what raised the score, largest first
    assert [(r.input, r.contribution) for r in decisions[1].reasons] == [
        ("amount_cents", 9000.0),
        ("mean_1h", 4500.0),
    ]
    assert [r.input for r in decisions[2].reasons] == ["mean_1h", "amount_cents"]


def test_contributions_that_raise_cost_the_reasons_and_not_the_decision() -> None:
    class Silent(Formula):
        def contributions(self, matrix: Any) -> Any:
            raise RuntimeError("no trees")

    _, decisions = step([payment(1, 9000)], scorer=Silent())
    assert decisions[0].decision == "block"
    assert decisions[0].reasons == []


def test_late_rows_are_scored_with_features_as_of_their_own_time() -> None:
    late = payment(2, 1900, late=True, count_1h=None, mean_1h=None)
    _, decisions = step([payment(1, 1900), late])
    assert decisions[0].score == pytest.approx(expected(1900, 1)[0])
    assert decisions[1].score == pytest.approx(expected(1900, 50)[0])
    assert [d.late for d in decisions] == [False, True]
    assert not decisions[1].degraded
    assert decisions[1].feature_time == late.occurred_at


def test_without_a_store_late_rows_are_scored_and_say_so() -> None:
    late = payment(2, 1900, late=True, count_1h=None, mean_1h=None)
    _, decisions = step([payment(1, 1900), late], store=Store(away=True))
    assert (decisions[0].degraded, decisions[0].level, decisions[0].degraded_reason) == (False, "live", None)
    assert (decisions[1].degraded, decisions[1].level) == (True, "no_features")
    assert "connection refused" in (decisions[1].degraded_reason or "")
    assert decisions[1].feature_time is None
    assert decisions[1].score == pytest.approx(expected(1900, 0)[0])


def test_rows_the_model_fails_on_are_outputs_of_their_own() -> None:
    given = [payment(n, a) for n, a in enumerate([100, BREAKS, 5000, GIVES_NAN, 9000])]
    scored, decisions = step(given)
    assert scored.rows.tolist() == [0, 2, 4]
    assert [failed.row for failed in scored.failed] == [1, 3]
    assert {failed.error.code for failed in scored.failed} == {"model_failed"}
    assert [d.decision for d in decisions] == ["confirm", "review", "block"]
    assert [d.id for d in decisions] == ["p-0", "p-2", "p-4"]
    assert [len(d.reasons) for d in decisions] == [0, 2, 2]


def test_late_marks_stay_with_their_rows_when_others_fail() -> None:
    given = [payment(0, BREAKS), payment(1, 100, late=True), payment(2, 100)]
    _, decisions = step(given, store=Store(away=True))
    assert [(d.id, d.late, d.degraded) for d in decisions] == [("p-1", True, True), ("p-2", False, False)]


def test_all_rows_failing_leaves_an_empty_result() -> None:
    scored, decisions = step([payment(0, BREAKS), payment(1, GIVES_NAN)])
    assert decisions == []
    assert len(scored.failed) == 2


def test_a_broken_model_decides_nothing() -> None:
    with pytest.raises(ModelRefused):
        step([payment(0, 100)], scorer=Formula(broken=True))
