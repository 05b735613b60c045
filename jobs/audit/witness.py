"""Witnessing: how long every chain is, written into another chain.

A chain whose last entries are taken away is a good chain. So who copies the trail keeps a chain of its own,
and writes into it, each minute in which something came, sequence and hash of the last entry of every chain
that grew: `trail.heads`. What is cut off below a head that was witnessed is found.
"""

from collections.abc import Iterable
from datetime import datetime

from core.clock import Clock
from jobs.audit.store import PostgresAuditStore
from pipelines.audit.entry import HEADS
from pipelines.audit.event import AuditEvent
from pipelines.audit.heads import MOST_HEADS, head_text
from pipelines.audit.writer import AuditWriter
from schemas.catalog.security import AuditEntry

KIND = "audit"
MOST_KNOWN = 5_000


class Witness:
    """For one thread. `interval_s`: the longest time from an entry to the head that covers it."""

    def __init__(self, writer: AuditWriter, clock: Clock, *, interval_s: float) -> None:
        self._writer = writer
        self._clock = clock
        self._interval_s = interval_s
        self._heads: dict[str, tuple[int, str]] = {}
        self._news = False
        self._told_at = clock.monotonic()

    def begin(self, store: PostgresAuditStore) -> None:
        """Know the chains of the last day: a witness before this one may have ended without telling them."""
        self._heads = store.recent(MOST_KNOWN) | self._heads
        self._news = bool(self._heads)

    def saw(self, entries: Iterable[AuditEntry]) -> None:
        """These were stored."""
        for entry in entries:
            if entry.writer == self._writer.writer:
                continue
            known = self._heads.get(entry.writer)
            if known is None or known[0] < entry.sequence:
                self._heads[entry.writer] = entry.sequence, entry.hash
                # what witnesses write is no news, or two of them would answer each other for ever
                self._news = self._news or not entry.writer.startswith(f"{KIND}-")

    def tick(self, *, last: bool = False) -> None:
        """Tell the heads, where it is time and there are news."""
        now = self._clock.monotonic()
        due = last or now - self._told_at >= self._interval_s or len(self._heads) >= MOST_KNOWN
        if not due or not self._heads or not self._news:
            return
        self._told_at, self._news = now, False
        heads, self._heads = sorted(self._heads.items()), {}
        at = self._clock.now()
        for start in range(0, len(heads), MOST_HEADS):
            self._writer.take(_event(heads[start : start + MOST_HEADS], self._writer.writer, at))


def _event(heads: list[tuple[str, tuple[int, str]]], actor: str, at: datetime) -> AuditEvent:
    detail = {writer: head_text(sequence, hash) for writer, (sequence, hash) in heads}
    return AuditEvent("", actor, HEADS, "allowed", at, detail=detail)
