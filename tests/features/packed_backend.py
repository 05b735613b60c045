"""What the two suites of packed values share: a store and what a test does to it, and what a read says."""

import itertools
from datetime import timedelta
from typing import Any, Protocol

from core.telemetry.metrics import REGISTRY
from features.online.packed_reader import PackedRead
from features.online.packed_values import AsyncPackedValues, PackedValues
from features.online.packed_writer import PackedRow

ROW = (3, 0.25, True, 7, None)
numbers = itertools.count()


def fresh_tenant() -> str:
    """One that no other example has used."""
    return f"t{next(numbers)}"


class Backend(Protocol):
    """A store, and what a test must do behind its back."""

    values: PackedValues

    def plant(self, key: bytes, value: bytes) -> None:
        """Put these bytes there, whatever they are."""

    def pass_time(self, by: timedelta) -> None:
        """Let at least so much of the store's time go by."""

    def coroutine_values(self) -> AsyncPackedValues:
        """The same values, for the running event loop."""
        ...


def row(entity: str, at: int, sequence: int = 0, values: Any = ROW, tenant: str = "t") -> PackedRow:
    return PackedRow(tenant, entity, at, sequence, values)


def told(read: PackedRead) -> tuple[Any, ...]:
    """All that a read says."""
    return (read.values, read.statuses, read.event_time, read.age, read.truncated)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"millstream_{name}_total", labels) or 0.0
