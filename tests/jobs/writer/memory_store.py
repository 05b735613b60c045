"""The status store in memory: the naive form of the same promise, for tests without PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobs.writer.errors import BadRecord
from jobs.writer.status_store import STATUS_OF_VERDICT, Arrival, StoredDecision, StoredVerdict
from schemas.catalog.decisions import Decision, Verdict

Key = tuple[str, str]


@dataclass
class Row:
    status: str
    rank: int
    changed_at: datetime


class MemoryStatusStore:
    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.decisions: dict[Key, tuple[Decision, datetime]] = {}
        self.verdicts: dict[Key, tuple[Verdict, datetime]] = {}
        self.queue: dict[Key, str] = {}

    def open(self) -> None:
        return

    def accept(self, pipeline: str, arrivals: Sequence[Arrival], at: datetime) -> int:
        before = len(self.rows)
        for one in arrivals:
            self._sound(one.tenant, one.id, one.entity)
        for one in arrivals:
            self.rows.setdefault((one.tenant, one.id), Row("provisional", 0, at))
        return len(self.rows) - before

    def decide(self, decisions: Sequence[Decision], at: datetime) -> list[StoredDecision]:
        for one in decisions:
            self._sound(one.tenant, one.id, one.entity)
        answer: dict[Key, StoredDecision] = {}
        for one in decisions:
            key = (one.tenant, one.id)
            if key in answer:
                continue
            first = key not in self.decisions
            stored = self.decisions.setdefault(key, (one, at))
            if first:
                self._raise(key, one.status, 1, at)
                if one.status == "in_review":
                    self.queue[key] = "decided" if self.rows[key].rank > 1 else "open"
            answer[key] = StoredDecision(*stored, first)
        return list(answer.values())

    def review(self, verdicts: Sequence[Verdict], at: datetime) -> list[StoredVerdict]:
        for one in verdicts:
            self._sound(one.tenant, one.id, one.entity)
            if one.verdict not in STATUS_OF_VERDICT:
                raise BadRecord(f"unknown verdict {one.verdict!r}")
        answer: dict[Key, StoredVerdict] = {}
        for one in verdicts:
            key = (one.tenant, one.id)
            if key in answer:
                continue
            first = key not in self.verdicts
            stored = self.verdicts.setdefault(key, (one, at))
            if first:
                self._raise(key, STATUS_OF_VERDICT[one.verdict], 2, at)
                if key in self.queue:
                    self.queue[key] = "decided"
            answer[key] = StoredVerdict(*stored, first)
        return list(answer.values())

    def close(self) -> None:
        return

    def status_of(self, tenant: str, id: str) -> tuple[str, int] | None:
        row = self.rows.get((tenant, id))
        return None if row is None else (row.status, row.rank)

    def history_of(self, tenant: str, id: str) -> list[float | None]:
        found: Any = self.decisions.get((tenant, id))
        return [] if found is None else [found[0].score]

    def review_state(self, tenant: str, id: str) -> str | None:
        return self.queue.get((tenant, id))

    def _raise(self, key: Key, status: str, rank: int, at: datetime) -> None:
        row = self.rows.get(key)
        if row is None or row.rank < rank:
            self.rows[key] = Row(status, rank, at)

    def _sound(self, *texts: str) -> None:
        if any("\x00" in text for text in texts):
            raise BadRecord("a text with a zero byte")
