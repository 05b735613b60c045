"""The proof of the trail as it is stored now."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from core.clock import Clock, SystemClock
from core.settings import Settings
from pipelines.audit.heads import parse_head
from pipelines.audit.on_kafka import KafkaCopy, copied_offsets, read_kafka
from pipelines.audit.stored import open_stored
from pipelines.audit.verify import Allowances, CopyCheck, Finding, compare
from schemas.catalog.security import SECURITY_EVENTS

Source = Literal["postgres", "kafka", "both"]
_SLACK = timedelta(days=1)  # a broker takes what is too old away within hours, not at once


@dataclass(frozen=True)
class Proof:
    """findings: everything that is wrong. waiting: chains with entries that nobody has copied yet."""

    findings: Sequence[Finding]
    entries: dict[str, int]
    chains: int
    waiting: int

    @property
    def summary(self) -> str:
        read = ", ".join(f"{count} in {source}" for source, count in self.entries.items())
        waits = f"; {self.waiting} chains wait to be copied" if self.waiting else ""
        many = "1 finding" if len(self.findings) == 1 else f"{len(self.findings)} findings"
        ends = many if self.findings else "nothing removed, changed or moved"
        return f"{self.chains} chains, {read}: {ends}{waits}"

    def plain(self) -> dict[str, Any]:
        return {
            "ok": not self.findings,
            "chains": self.chains,
            "entries": self.entries,
            "waiting": self.waiting,
            "findings": [
                {
                    "kind": one.kind,
                    "source": one.source,
                    "writer": one.writer,
                    "sequence": one.sequence,
                    "last": one.last,
                    "reason": one.reason,
                }
                for one in self.findings
            ],
        }


def prove(
    settings: Settings,
    source: Source,
    heads: Iterable[str] = (),
    *,
    topic: str = SECURITY_EVENTS.name,
    clock: Clock | None = None,
) -> Proof:
    """Read what `source` names and prove it; `heads` as `parse_head` takes them. First it is asked how far
    was copied, then PostgreSQL is read, then Kafka, so that what is written meanwhile is missing nowhere.
    Raises Unavailable while a copy cannot be read."""
    given = [parse_head(text) for text in heads]
    clock = clock or SystemClock()
    findings: list[Finding] = []
    copies: list[CopyCheck] = []
    expired: dict[str, int] = {}
    kafka: KafkaCopy | None = None
    copied = copied_offsets(settings, topic) if source == "both" else {}
    if source != "kafka":
        with open_stored(settings) as stored:
            copies.append(stored.check())
            oldest = clock.now() - SECURITY_EVENTS.retention + _SLACK
            expired = stored.last_before(oldest)
            findings += [
                Finding("", 0, 0, "unguarded", "postgres", f"trigger {name} is off or gone")
                for name in stored.missing_guards()
            ]
    if source != "postgres":
        kafka = read_kafka(settings, copied, topic=topic, clock=clock)
        copies.insert(0, kafka.check)
        findings += kafka.strange
        if source == "kafka" and kafka.begins_late:
            gone = {writer: head.sequence + 1 for writer, head in kafka.check.heads.items()}
            expired = gone | {writer: chain.first or 0 for writer, chain in kafka.check.chains.items()}
    waiting = kafka.waiting if kafka is not None and source == "both" else {}
    findings += compare(copies, given=given, allowed=Allowances(expired, waiting))
    return Proof(
        sorted(findings),
        {copy.source: copy.entries for copy in copies},
        len({writer for copy in copies for writer in copy.chains}),
        len(waiting),
    )
