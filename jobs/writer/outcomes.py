"""From what is stored to what is told: status changes and alerts. Pure functions.

They depend on the *stored* first decision only, so that a repeat after a crash tells the same again.
"""

from datetime import datetime, timedelta

from jobs.writer.status_store import STATUS_OF_VERDICT, StoredDecision, StoredVerdict
from pipelines.tables import RANK_DECIDED, RANK_REVIEWED
from schemas.catalog.alerts import Alert
from schemas.catalog.decisions import Decision, StatusChange

BLOCKED = "blocked"
ALERT_KIND = "transaction_blocked"
_MILLISECOND = timedelta(milliseconds=1)


def decided(stored: StoredDecision, *, committed_at: datetime) -> StatusChange:
    """The status change of a first decision: rank 1, with the decision.

    `changed_at` is the time in the database row. `store_ms` runs from the decision to `committed_at`; for
    a decision that an earlier process stored it ends at the stored time.
    """
    decision = stored.decision
    until = committed_at if stored.first else stored.stored_at
    return StatusChange(
        tenant=decision.tenant,
        id=decision.id,
        entity=decision.entity,
        occurred_at=decision.occurred_at,
        pipeline=decision.pipeline,
        status=decision.status,
        rank=RANK_DECIDED,
        changed_at=stored.stored_at,
        store_ms=max(0.0, (until - decision.decided_at) / _MILLISECOND),
        result=decision,
    )


def reviewed(stored: StoredVerdict) -> StatusChange:
    """The status change of a first verdict: rank 2; fraud becomes blocked, legitimate confirmed."""
    verdict = stored.verdict
    return StatusChange(
        tenant=verdict.tenant,
        id=verdict.id,
        entity=verdict.entity,
        occurred_at=verdict.occurred_at,
        pipeline=verdict.pipeline,
        status=STATUS_OF_VERDICT[verdict.verdict],
        rank=RANK_REVIEWED,
        changed_at=stored.stored_at,
        verdict=verdict.verdict,
        reviewer=verdict.reviewer,
    )


def alert(stored: StoredDecision) -> Alert | None:
    """The alert of a block, None for any other decision. Its id is the decision's, so a repeat is equal."""
    decision = stored.decision
    if decision.status != BLOCKED:
        return None
    return Alert(
        tenant=decision.tenant,
        id=f"{ALERT_KIND}:{decision.id}",
        severity="high",
        kind=ALERT_KIND,
        source=decision.pipeline,
        subject=decision.entity,
        text=_text(decision),
        deduplication_key=f"{ALERT_KIND}:{decision.id}",
        raised_at=stored.stored_at,
    )


def _text(decision: Decision) -> str:
    score = "no score" if decision.score is None else f"score {decision.score:.1f}"
    reasons = ", ".join(reason.input for reason in decision.reasons[:3])
    because = f"; most by {reasons}" if reasons else ""
    return f"{decision.id} blocked with {score} by {decision.model} {decision.model_version}{because}"
