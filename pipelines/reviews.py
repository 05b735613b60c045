"""The review queue: what waits for an analyst, and the analyst's verdict.

A verdict is published on the pipeline's labels topic and nothing else: the writer alone changes a status,
so the new status shows a moment after `decide` returns.
"""

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

import psycopg
from psycopg.rows import class_row

from core.clock import Clock
from core.errors import Conflict, Rejected, Unavailable, UnknownName
from core.settings import Settings
from schemas.broker import producer
from schemas.catalog.decisions import Verdict
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

State = Literal["open", "decided"]
VERDICTS = ("fraud", "legitimate")
MOST_PER_PAGE = 500
NOTE_LIMIT = 2000  # characters
ACK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Review:
    """One entry of the queue. `reasons` are the decision's: a list of {input, contribution}."""

    tenant: str
    id: str
    pipeline: str
    entity: str
    occurred_at: datetime
    score: float | None
    reasons: list[dict[str, Any]]
    state: State
    opened_at: datetime
    verdict: str | None = None
    reviewer: str | None = None
    note: str | None = None
    decided_at: datetime | None = None


@dataclass(frozen=True)
class ReviewPage:
    """At most `limit` reviews, oldest first; `after` of the next page, None at the end."""

    reviews: list[Review]
    after: str | None


class PublishesVerdicts(Protocol):
    def publish(self, verdict: Verdict) -> None:
        """Returns once the verdict is acknowledged; raises Unavailable when that cannot be had."""
        ...


_COLUMNS = (
    "tenant, id, pipeline, entity, occurred_at, score, reasons, state, opened_at,"
    " verdict, reviewer, note, decided_at"
)


def list_reviews(
    connection: psycopg.Connection[Any],
    *,
    tenant: str,
    state: State = "open",
    limit: int = 50,
    after: str | None = None,
) -> ReviewPage:
    """The tenant's reviews in `state`, oldest first, `limit` (1 to 500) a page.

    `after` is the cursor of the page before. Raises Rejected for a limit or cursor that is none.
    """
    if not 1 <= limit <= MOST_PER_PAGE:
        raise Rejected("limit out of bounds", fields={"/limit": f"must be 1 to {MOST_PER_PAGE}"})
    opened_at, id = _read_cursor(after) if after else (None, "")
    with connection.cursor(row_factory=class_row(Review)) as cursor:
        rows = cursor.execute(
            f"SELECT {_COLUMNS} FROM reviews WHERE tenant = %(tenant)s AND state = %(state)s"
            " AND (%(opened_at)s::timestamptz IS NULL OR (opened_at, id) > (%(opened_at)s, %(id)s))"
            " ORDER BY opened_at, id LIMIT %(limit)s",
            {"tenant": tenant, "state": state, "opened_at": opened_at, "id": id, "limit": limit + 1},
        ).fetchall()
    more = len(rows) > limit
    rows = rows[:limit]
    return ReviewPage(rows, _cursor(rows[-1]) if more else None)


def find_review(connection: psycopg.Connection[Any], *, tenant: str, id: str) -> Review:
    """One entry, open or decided. Raises UnknownName when the tenant has none with that id."""
    with connection.cursor(row_factory=class_row(Review)) as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS} FROM reviews WHERE tenant = %s AND id = %s", (tenant, id)
        ).fetchone()
    if found is None:
        raise UnknownName("review", id, (), where=f"tenant {tenant}")
    return found


def decide(
    connection: psycopg.Connection[Any],
    publisher: PublishesVerdicts,
    clock: Clock,
    *,
    tenant: str,
    id: str,
    verdict: str,
    reviewer: str,
    note: str | None = None,
) -> Verdict:
    """Publish the verdict on an open review and return it.

    The same verdict of the same reviewer again publishes nothing and answers with the stored one. Raises
    UnknownName (not in the queue), Conflict (decided otherwise), Rejected (no such verdict, no reviewer,
    a note above 2,000 characters), Unavailable (not acknowledged; safe to call again).
    """
    fields = {}
    if verdict not in VERDICTS:
        fields["/verdict"] = f"must be one of {', '.join(VERDICTS)}"
    if not reviewer.strip():
        fields["/reviewer"] = "must not be empty"
    if note is not None and len(note) > NOTE_LIMIT:
        fields["/note"] = f"must have at most {NOTE_LIMIT} characters"
    if fields:
        raise Rejected("no valid verdict", fields=fields)
    review = find_review(connection, tenant=tenant, id=id)
    if review.state == "decided" and (review.verdict, review.reviewer) != (verdict, reviewer):
        raise Conflict(
            f"{id} was decided as {review.verdict} by {review.reviewer}",
            where=f"tenant {tenant}",
            mend="a verdict is final",
            code="already_reviewed",
        )
    given = Verdict(
        tenant=tenant,
        id=id,
        entity=review.entity,
        occurred_at=review.occurred_at,
        pipeline=review.pipeline,
        verdict=verdict,
        reviewer=reviewer,
        note=review.note if review.state == "decided" else note,
        decided_at=review.decided_at or clock.now(),
    )
    if review.state == "open":
        publisher.publish(given)
    return given


class KafkaVerdicts:
    """Publishes verdicts on a labels topic, with `acks=all`. Thread-safe; keeps one producer."""

    def __init__(self, settings: Settings, labels: Topic) -> None:
        self._topic = labels.name
        self._codec = RecordCodec(Verdict, SchemaRegistry.of(settings), labels.subject)
        self._producer = producer(settings, linger_ms=0)

    def publish(self, verdict: Verdict) -> None:
        outcome: list[Any] = []
        self._producer.produce(
            self._topic,
            key=key_of(verdict.tenant, verdict.entity).encode(),
            value=self._codec.encode(verdict),
            headers=event_headers(
                id=verdict.id,
                source=verdict.reviewer,
                type=Verdict.spec().full_name,
                time=verdict.occurred_at,
                tenant=verdict.tenant,
                received_at=verdict.decided_at,
            ),
            on_delivery=lambda error, _: outcome.append(error),
        )
        self._producer.flush(ACK_S)
        if not outcome or outcome[0] is not None:
            reason = str(outcome[0]) if outcome else f"no acknowledgement within {ACK_S:.0f} s"
            raise Unavailable(f"the verdict is not on Kafka: {reason}", code="kafka_unavailable")


def _cursor(last: Review) -> str:
    text = json.dumps([last.opened_at.isoformat(), last.id])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    with suppress(ValueError, TypeError, RecursionError):
        value: Sequence[Any] = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        opened_at, id = value
        str(id).encode()
        return datetime.fromisoformat(opened_at), str(id)
    raise Rejected("no cursor of this list", fields={"/after": "use `after` of the page before, unchanged"})
