"""Writing packed values of one view: the newest (event time, sequence) of a key stays, whoever writes it.

writer = PackedWriter(values, layout)
outcomes = writer.write([PackedRow("acme", "north", window_end_ms, 0, (12, 0.25))])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from core.errors import InvalidInput, Unavailable
from core.telemetry.metrics import counter
from features.online.packed import PackedLayout, Value
from features.online.packed_codec import PackedCodec, Unreadable, version_of
from features.online.packed_values import Entry, PackedValues

WRITES = counter(
    "online_packed_writes_total",
    "Values given to the online store: written, older, conflict, refused; repaired: over a damaged one",
    ["view", "outcome"],
)
_REPAIRS = 3

Outcome = Literal["written", "older", "conflict"] | InvalidInput
"""What became of one row.

written: the value is there, now or already before, unless a newer one has replaced it since. older: the key
has one of a higher (event time, sequence), which stays. conflict: it has another one of the same event time
and sequence, which stays. InvalidInput: the row cannot be stored, ever: dead-letter it.
"""


class PackedRow(NamedTuple):
    """A value to write. `sequence` tells a correction (higher) from what it corrects at one event time."""

    tenant: str
    entity: str
    event_time_ms: int
    sequence: int
    values: Sequence[Value]


@dataclass
class _Newest:
    row: int
    data: bytes


class PackedWriter:
    """Writes rows of one layout."""

    def __init__(self, values: PackedValues, layout: PackedLayout) -> None:
        self.layout = layout
        self._values = values
        self._codec = PackedCodec(layout)

    def write(self, rows: Sequence[PackedRow]) -> list[Outcome]:
        """Store rows in any order, any number of a key; for each what became of it. Idempotent.

        Raises Unavailable while the store is away: part of the rows may be written, and all may be given
        again.
        """
        refused: dict[int, InvalidInput] = {}
        encoded: dict[int, tuple[bytes, bytes]] = {}
        newest: dict[bytes, _Newest] = {}
        for at, row in enumerate(rows):
            try:
                key = self.layout.key(row.tenant, row.entity)
                data = self._codec.encode(row.event_time_ms, row.sequence, row.values)
            except InvalidInput as error:
                refused[at] = error
                continue
            encoded[at] = (key, data)
            best = newest.get(key)
            if best is None:
                newest[key] = _Newest(at, data)
            elif version_of(data) > version_of(best.data):
                best.row, best.data = at, data
        there = self._put({key: best.data for key, best in newest.items()})
        outcomes: list[Outcome] = []
        for at in range(len(rows)):
            if at in refused:
                outcomes.append(refused[at])
            else:
                key, data = encoded[at]
                outcomes.append(_outcome(data, there[key]))
        self._count(outcomes)
        return outcomes

    def _put(self, wanted: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """For each key what is there afterwards. What is found damaged is replaced by what was wanted."""
        there = dict(wanted)
        entries = [Entry(key, data) for key, data in wanted.items()]
        for _ in range(1 + _REPAIRS):
            damaged: list[Entry] = []
            for entry, stays in zip(entries, self._values.put(entries, self.layout.ttl_ms), strict=True):
                if stays is None:
                    there[entry.key] = entry.value
                elif self._readable(stays):
                    there[entry.key] = stays
                else:
                    damaged.append(entry._replace(instead_of=stays))
            if not damaged:
                return there
            WRITES.labels(self.layout.view, "repaired").inc(len(damaged))
            entries = damaged
        raise Unavailable(
            f"{len(entries)} values are damaged again and again",
            where=self.layout.where,
            mend="look who else writes these keys",
        )

    def _readable(self, data: bytes) -> bool:
        try:
            self._codec.decode(data)
        except Unreadable:
            return False
        return True

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        counts: dict[str, int] = {}
        for outcome in outcomes:
            name: str = outcome if isinstance(outcome, str) else "refused"
            counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            WRITES.labels(self.layout.view, name).inc(count)


def _outcome(data: bytes, there: bytes) -> Outcome:
    if data == there:
        return "written"
    return "older" if version_of(data) < version_of(there) else "conflict"
