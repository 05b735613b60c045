"""The status store in PostgreSQL."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import psycopg

from jobs.writer.errors import BadRecord
from jobs.writer.postgres import PostgresConnection
from jobs.writer.status_store import STATUS_OF_VERDICT, Arrival, StoredDecision, StoredVerdict
from pipelines.tables import (
    RANK_DECIDED,
    RANK_PROVISIONAL,
    RANK_REVIEWED,
    ensure_partitions,
    from_arrays,
    insert_from_arrays,
    week_of,
)
from schemas.catalog.decisions import Decision, Verdict

_EVENT = {
    "tenant": "text", "id": "text", "pipeline": "text", "entity": "text", "occurred_at": "timestamptz",
}  # fmt: skip
_STATUS = {**_EVENT, "status": "text", "rank": "smallint", "changed_at": "timestamptz"}
_REVIEWED = {**_STATUS, "verdict": "text", "reviewer": "text", "note": "text", "reviewed_at": "timestamptz"}
_PREDICTION = {
    **_EVENT, "decided_at": "timestamptz", "stored_at": "timestamptz", "score": "real", "decision": "text",
    "status": "text", "model": "text", "model_version": "text", "arm": "text", "assignment_unit": "text",
    "degraded": "boolean", "level": "text", "late": "boolean", "feature_time": "timestamptz",
    "received_at": "timestamptz", "enriched_at": "timestamptz", "source": "text", "reasons": "jsonb",
    "queue_ms": "real", "model_ms": "real", "decide_ms": "real",
}  # fmt: skip
_DECIDED = {**_PREDICTION, "result": "jsonb"}

_RISE = ", ".join(
    f"{name} = CASE WHEN t.rank < EXCLUDED.rank THEN EXCLUDED.{name} ELSE t.{name} END"
    for name in ("status", "rank", "changed_at")
)


def _taken(*columns: str) -> str:
    return ", ".join(f"{name} = EXCLUDED.{name}" for name in columns)


_ACCEPT = insert_from_arrays("transactions", _STATUS, "ON CONFLICT (tenant, id) DO NOTHING")
# One statement, so one round trip and one flush to disk: what is first goes to all three tables or to none.
_DECIDE = f"""
WITH given AS (SELECT * FROM {from_arrays(_DECIDED, "given")}),
firsts AS (
    INSERT INTO transactions AS t (
        {", ".join(_EVENT)}, status, rank, changed_at,
        score, decision, model, model_version, result, stored_at
    )
    SELECT {", ".join(_EVENT)}, status, {RANK_DECIDED}, stored_at,
        score, decision, model, model_version, result, stored_at
    FROM given
    ON CONFLICT (tenant, id) DO UPDATE SET {_RISE},
        {_taken("score", "decision", "model", "model_version", "result", "stored_at")}
    WHERE t.result IS NULL
    RETURNING t.tenant, t.id, t.rank, t.verdict, t.reviewer, t.note, t.reviewed_at
),
history AS (
    INSERT INTO predictions ({", ".join(_PREDICTION)})
    SELECT {", ".join(f"given.{name}" for name in _PREDICTION)}
    FROM given JOIN firsts USING (tenant, id)
    ON CONFLICT (tenant, id, decided_at) DO NOTHING
),
queue AS ( -- a verdict that was here before the decision leaves nothing to review
    INSERT INTO reviews (
        {", ".join(_EVENT)}, score, reasons, opened_at, state, verdict, reviewer, note, decided_at
    )
    SELECT {", ".join(f"given.{name}" for name in _EVENT)}, given.score, given.reasons, given.stored_at,
        CASE WHEN firsts.rank < {RANK_REVIEWED} THEN 'open' ELSE 'decided' END,
        firsts.verdict, firsts.reviewer, firsts.note, firsts.reviewed_at
    FROM given JOIN firsts USING (tenant, id)
    WHERE given.status = 'in_review'
    ON CONFLICT (tenant, id) DO NOTHING
)
SELECT tenant, id FROM firsts
"""
_REVIEW = insert_from_arrays(
    "transactions AS t",
    _REVIEWED,
    f"ON CONFLICT (tenant, id) DO UPDATE SET {_RISE},\n"
    f"    {_taken('verdict', 'reviewer', 'note', 'reviewed_at')}\n"
    f"WHERE t.rank < {RANK_REVIEWED} RETURNING t.tenant, t.id",
)
_KEYS = {"tenant": "text", "id": "text"}
_CLOSE_REVIEWS = f"""
UPDATE reviews AS r SET state = 'decided', verdict = t.verdict, reviewer = t.reviewer, note = t.note,
    decided_at = t.reviewed_at
FROM {from_arrays(_KEYS, "k")} JOIN transactions AS t USING (tenant, id)
WHERE r.tenant = k.tenant AND r.id = k.id AND r.state = 'open'
"""
_STORED = f"""
SELECT t.tenant, t.id, t.pipeline, t.entity, t.occurred_at, t.result::text, t.stored_at,
    t.verdict, t.reviewer, t.note, t.reviewed_at
FROM {from_arrays(_KEYS, "k")} JOIN transactions AS t USING (tenant, id)
"""

Key = tuple[str, str]
T = TypeVar("T", Decision, Verdict)


class PostgresStatusStore(PostgresConnection):
    """For one thread; see `PostgresConnection`."""

    def __init__(self, url: str, *, application: str = "millstream-writer") -> None:
        super().__init__(url, application=application)
        self._weeks: set[datetime] = set()

    def accept(self, pipeline: str, arrivals: Sequence[Arrival], at: datetime) -> int:
        distinct = {(one.tenant, one.id): one for one in reversed(arrivals)}
        rows = [
            (one.tenant, one.id, pipeline, one.entity, one.occurred_at, "provisional", RANK_PROVISIONAL, at)
            for _, one in sorted(distinct.items())
        ]
        if not rows:
            return 0
        with self._open() as connection:
            return connection.execute(_ACCEPT, _arrays(rows)).rowcount

    def decide(self, decisions: Sequence[Decision], at: datetime) -> list[StoredDecision]:
        given = _first(decisions)
        if not given:
            return []
        ordered = [given[key] for key in sorted(given)]
        with self._open() as connection:
            self._ensure_weeks(connection, ordered, at)
            rows = [_decided_row(one, at) for one in ordered]
            firsts = set(connection.execute(_DECIDE, _arrays(rows), prepare=True).fetchall())
            stored = {key: StoredDecision(given[key], at, True) for key in firsts}
            for row in _stored(connection, [key for key in given if key not in firsts]):
                decision = msgspec.json.decode(row[5], type=Decision)
                stored[row[0], row[1]] = StoredDecision(decision, row[6], False)
        return [stored[key] for key in given]

    def review(self, verdicts: Sequence[Verdict], at: datetime) -> list[StoredVerdict]:
        given = _first(verdicts)
        for one in given.values():
            if one.verdict not in STATUS_OF_VERDICT:
                raise BadRecord(
                    f"unknown verdict {one.verdict!r}", mend=f"use one of {', '.join(STATUS_OF_VERDICT)}"
                )
        if not given:
            return []
        with self._open() as connection, connection.transaction():
            rows = [_reviewed_row(given[key], at) for key in sorted(given)]
            fresh = set(connection.execute(_REVIEW, _arrays(rows)).fetchall())
            if fresh:
                connection.execute(_CLOSE_REVIEWS, _arrays(sorted(fresh)))
            stored = {key: StoredVerdict(given[key], at, True) for key in given if key in fresh}
            for row in _stored(connection, [key for key in given if key not in fresh]):
                tenant, id, pipeline, entity, occurred_at, _, _, verdict, reviewer, note, reviewed_at = row
                stored[tenant, id] = StoredVerdict(
                    Verdict(
                        tenant=tenant,
                        id=id,
                        entity=entity,
                        occurred_at=occurred_at,
                        pipeline=pipeline,
                        verdict=verdict,
                        reviewer=reviewer,
                        note=note,
                        decided_at=reviewed_at,
                    ),
                    reviewed_at,
                    False,
                )
        return [stored[key] for key in given]

    def _opened(self) -> None:
        self._weeks.clear()

    def _ensure_weeks(
        self, connection: psycopg.Connection[Any], decisions: Sequence[Decision], at: datetime
    ) -> None:
        missing = {week_of(one.decided_at) for one in decisions} - self._weeks
        if missing:
            ensure_partitions(connection, missing, now=at)
            self._weeks |= missing
            if len(self._weeks) > 1000:
                self._weeks.clear()


def _first(records: Sequence[T]) -> dict[Key, T]:
    """The first record of each (tenant, id), in order of first appearance."""
    found: dict[Key, T] = {}
    for one in records:
        found.setdefault((one.tenant, one.id), one)
    return found


def _arrays(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows to columns, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]


def _stored(connection: psycopg.Connection[Any], keys: Sequence[Key]) -> list[tuple[Any, ...]]:
    if not keys:
        return []
    return connection.execute(_STORED, _arrays(keys)).fetchall()


def _event(one: Verdict) -> tuple[Any, ...]:
    return (one.tenant, one.id, one.pipeline, one.entity, one.occurred_at)


def _reviewed_row(one: Verdict, at: datetime) -> tuple[Any, ...]:
    status = STATUS_OF_VERDICT[one.verdict]
    return (*_event(one), status, RANK_REVIEWED, at, one.verdict, one.reviewer, one.note, at)


def _reasons(one: Decision) -> str:
    return msgspec.json.encode(one.reasons).decode()


_COMPUTED: dict[str, Callable[[Decision, datetime], Any]] = {
    "stored_at": lambda one, at: at,
    "reasons": lambda one, at: _reasons(one),
    "result": lambda one, at: msgspec.json.encode(one).decode(),
}
_READ = [_COMPUTED.get(name, lambda one, at, name=name: getattr(one, name)) for name in _DECIDED]


def _decided_row(one: Decision, at: datetime) -> tuple[Any, ...]:
    return tuple(read(one, at) for read in _READ)
