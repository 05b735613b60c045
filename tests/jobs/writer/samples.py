"""Records, plans and messages for the writer's tests."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.catalog.decisions import Decision, Reason, Verdict

START = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
TENANT = "acme"


def decision(id: str, *, status: str = "confirmed", tenant: str = TENANT, **changes: Any) -> Decision:
    scores = {"blocked": 93.5, "confirmed": 4.0, "in_review": 50.0}
    words = {"blocked": "block", "confirmed": "confirm", "in_review": "review"}
    given: dict[str, Any] = {
        "tenant": tenant,
        "id": id,
        "entity": f"card-{id}",
        "occurred_at": START,
        "pipeline": "fraud",
        "score": scores[status],
        "decision": words[status],
        "status": status,
        "model": "fraud",
        "model_version": "3",
        "reasons": [Reason("amount_cents", 1.5)] if status != "confirmed" else [],
        "received_at": START + timedelta(milliseconds=1),
        "decided_at": START + timedelta(milliseconds=100),
    }
    return Decision(**(given | changes))


def verdict(id: str, word: str = "fraud", *, reviewer: str = "ann", tenant: str = TENANT) -> Verdict:
    return Verdict(
        tenant=tenant,
        id=id,
        entity=f"card-{id}",
        occurred_at=START,
        pipeline="fraud",
        verdict=word,
        reviewer=reviewer,
        decided_at=START + timedelta(minutes=5),
    )


@dataclass(frozen=True)
class FakeMessage:
    """What the writer reads of confluent_kafka's Message."""

    at_offset: int
    content: bytes | None = b""
    at_partition: int = 0
    on_topic: str = "t"
    named: bytes | None = b"key"
    with_headers: list[tuple[str, bytes]] = field(default_factory=list)

    def topic(self) -> str:
        return self.on_topic

    def partition(self) -> int:
        return self.at_partition

    def offset(self) -> int:
        return self.at_offset

    def key(self) -> bytes | None:
        return self.named

    def value(self) -> bytes | None:
        return self.content

    def headers(self) -> list[tuple[str, bytes]]:
        return self.with_headers

    def timestamp(self) -> tuple[int, int]:
        return 2, int(START.timestamp() * 1000) + self.at_offset

    def error(self) -> None:
        return None
