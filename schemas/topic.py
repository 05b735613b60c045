"""Topics: a record plus how Kafka keeps it.

A topic is named `<domain>.<dataset>.<kind>.v<N>`. Each consumed topic has a dead-letter topic beside it.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from core.errors import DeclarationError, UnknownName
from schemas.classes import DATA_CLASSES, USUAL
from schemas.record import Record

KINDS = (
    "events", "enriched", "features", "requests", "replies", "results", "control", "labels",
    "late", "alerts", "status", "usage", "audit", "dlq",
)  # fmt: skip
NAMED_BY_SOURCES = frozenset(
    {
        "user-events", "experiments", "batch-inference-input", "batch-inference-output",
        "conversation.events", "model.usage", "integration.events", "security.events",
    }
)  # fmt: skip
_NAME = re.compile(r"^[a-z][a-z0-9_-]*\.[a-z][a-z0-9_-]*\.(" + "|".join(KINDS) + r")\.v[1-9][0-9]*$")


@dataclass(frozen=True)
class Topic:
    """A record on Kafka. `max_bytes` caps one message; `append_time` stamps with the broker's clock;
    `data_class` is what `schemas.classes` says of it, beside what its record's fields say."""

    name: str
    record: type[Record] | None
    partitions: int = 4
    retention: timedelta = timedelta(days=7)
    cleanup: Literal["delete", "compact"] = "delete"
    max_bytes: int = 1_048_576
    append_time: bool = False
    dead_letters: bool = field(default=True, compare=True)
    data_class: str = USUAL

    def __post_init__(self) -> None:
        if (
            not _NAME.match(self.name)
            and self.name not in NAMED_BY_SOURCES
            and not self.name.endswith(".dlq")
        ):
            raise DeclarationError(
                f"topic name {self.name!r}",
                where=f"record {self.record.__name__}" if self.record else None,
                mend=f"name it <domain>.<dataset>.<kind>.v<N> with kind one of {', '.join(KINDS)}",
            )
        if self.data_class not in DATA_CLASSES:
            raise UnknownName("data class", self.data_class, DATA_CLASSES, where=f"topic {self.name}")
        if self.partitions < 1:
            raise DeclarationError(
                f"topic {self.name} has {self.partitions} partitions", mend="give at least 1"
            )

    @property
    def subject(self) -> str:
        """The registry subject of the values."""
        return f"{self.name}-value"

    @property
    def dlq(self) -> "Topic":
        """Where a message goes that cannot be handled: same bytes, the reason in its headers."""
        return Topic(
            name=f"{self.name}.dlq",
            record=None,
            partitions=1,
            retention=timedelta(days=30),
            max_bytes=self.max_bytes + 65_536,
            dead_letters=False,
        )

    def config(self, *, min_insync: int) -> dict[str, str]:
        """The broker-side settings that `plan` compares and `apply` sets."""
        return {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(int(self.retention.total_seconds() * 1000)),
            "max.message.bytes": str(self.max_bytes),
            "message.timestamp.type": "LogAppendTime" if self.append_time else "CreateTime",
            "min.insync.replicas": str(min_insync),
        }
