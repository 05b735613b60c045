"""What the writer needs of a status store; PostgreSQL implements it, the tests' fake too.

All three writes are idempotent and monotonic: a row's rank goes up or stays (provisional 0, decided 1,
reviewed 2), and the first decision and the first verdict of a (tenant, id) stay for good. Both answer with
what is *stored*, so that a repeat after a crash tells the same as the first time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from schemas.catalog.decisions import Decision, Verdict


@dataclass(frozen=True)
class Arrival:
    """An event that was accepted: what a provisional row holds."""

    tenant: str
    id: str
    entity: str
    occurred_at: datetime


@dataclass(frozen=True)
class StoredDecision:
    """The first decision of a (tenant, id). `first` tells whether this call stored it."""

    decision: Decision
    stored_at: datetime
    first: bool


@dataclass(frozen=True)
class StoredVerdict:
    """The first verdict of a (tenant, id). `first` tells whether this call stored it."""

    verdict: Verdict
    stored_at: datetime
    first: bool


class StatusStore(Protocol):
    """Each call is one transaction, durable when it returns.

    Raises `Unavailable` when the store is away (nothing or all of it is stored; call again) and
    `BadRecord` when the store refuses one of the records (nothing is stored).
    """

    def open(self) -> None:
        """Connect and make what is missing; the other calls do so too."""
        ...

    def accept(self, pipeline: str, arrivals: Sequence[Arrival], at: datetime) -> int:
        """Make provisional rows where there is none; the number of new ones."""
        ...

    def decide(self, decisions: Sequence[Decision], at: datetime) -> list[StoredDecision]:
        """Store first decisions, their history, and a review for each `in_review`.

        One answer per distinct (tenant, id), in order of first appearance. Of several decisions for one
        (tenant, id) in a call the first counts.
        """
        ...

    def review(self, verdicts: Sequence[Verdict], at: datetime) -> list[StoredVerdict]:
        """Store first verdicts and close their reviews; one answer per distinct (tenant, id), in order."""
        ...

    def close(self) -> None: ...


STATUS_OF_VERDICT = {"fraud": "blocked", "legitimate": "confirmed"}
"""The final status of a reviewed transaction. Other verdicts are refused as bad records."""
