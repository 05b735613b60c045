"""Many packed values of one layout as one Arrow batch, with no Python step per value of a field.

Columns: `event_time` (timestamp[ms, UTC]) and `age_ms` (int64), null where the value is missing; one per
field (int64, float64, bool, string); `status`, a struct of one dictionary-encoded string per field.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.online.packed import PackedField, PackedLayout, Value
from features.online.packed_bands import AgeBands
from features.online.packed_block import Block, BlockColumns, Bools, Longs
from features.online.packed_codec import PREFIX_BYTES, PackedCodec, Unreadable

STATUSES = ("fresh", "stale", "missing", "expired", "truncated")
FRESH, STALE, MISSING, EXPIRED, _ = range(len(STATUSES))
STATUS_TYPE = pa.dictionary(pa.int8(), pa.string())

_ARROW = {"long": pa.int64(), "double": pa.float64(), "boolean": pa.bool_(), "string": pa.string()}
_DICTIONARY = pa.array(STATUSES, pa.string())
_OWN = 2
"""Columns before those of the fields: event time and age."""
_KEPT = 256
"""Columns of statuses that are kept, by band and rows: 2 KB each with 48 fields."""


def schema_of(layout: PackedLayout) -> pa.Schema:
    """The columns of a columnar read."""
    return pa.schema(
        [
            pa.field("event_time", pa.timestamp("ms", tz="UTC")),
            pa.field("age_ms", pa.int64()),
            *(pa.field(field.name, _ARROW[field.kind]) for field in layout.fields),
            pa.field("status", pa.struct([pa.field(name, STATUS_TYPE) for name in layout.names])),
        ]
    )


class PackedColumns:
    """Decodes for one layout. `unreadable(reason)` is told of each value that reads as missing for that."""

    def __init__(self, codec: PackedCodec, bands: AgeBands, unreadable: Callable[[str], None]) -> None:
        self.schema = schema_of(codec.layout)
        self._codec = codec
        self._bands = bands
        self._unreadable = unreadable
        self._fields = codec.layout.fields
        self._fresh_ms = codec.layout.fresh_ms
        self._slots = slice(codec.nulls.stop, codec.fixed.size)
        self._ttls = [codec.layout.field_ttl_ms(field) for field in self._fields]
        self._ttls_ms = np.array(self._ttls, dtype=np.int64)[:, None]
        self._no_empty = np.array([field.empty is None for field in self._fields])[:, None]
        self._status = self.schema.field("status")
        self._one_band = lru_cache(_KEPT)(self._statuses_of_band)
        # numbers are made as one block, the others one by one
        numbers = [at for at in codec.slots if self._fields[at].kind != "boolean"]
        self._numbers = np.array(numbers, dtype=np.int64)
        self._number_slots = np.array([codec.slots.index(at) for at in numbers], dtype=np.int64)
        self._booleans = [at for at in codec.slots if at not in numbers]
        self._empty = np.array([_bits(self._fields[at]) for at in numbers], dtype=np.int64)[:, None]
        own = [self.schema.field(at) for at in range(_OWN)]
        self._block = BlockColumns(pa.schema([*own, *(self.schema.field(_OWN + at) for at in numbers)]))

    def decode(self, values: Sequence[bytes | None], now_ms: int) -> pa.RecordBatch:
        """One row per value, in order; None, and what is unreadable, reads as missing."""
        heads, texts, missing = self._readable(values)
        rows = len(values)
        heads_of = np.frombuffer(heads, dtype=np.uint8).reshape(rows, self._codec.width)
        times = _longs(heads_of[:, PREFIX_BYTES : PREFIX_BYTES + 8])[0]
        slots = _longs(heads_of[:, self._slots])
        block = self._block.block(rows)
        np.subtract(now_ms, times, out=block.words[1])
        block.words[0], age = times, block.words[1]
        youngest, oldest = (self._bands.of(age.min()), self._bands.of(age.max())) if rows else (0, 0)
        null, gone = self._masks(heads_of, age, missing, expired=bool(self._bands.empty[oldest]))
        batch = self._number_columns(block, slots, (null, gone, missing))
        others: dict[int, pa.Array] = {}
        for at in self._booleans:
            mask = None if null is None else null[at]
            truths = slots[self._codec.slots.index(at)] != 0
            if gone is not None:
                truths = np.where(gone[at], bool(self._fields[at].empty), truths)
            others[at] = pa.array(truths, pa.bool_(), mask=mask)
        for position, at in enumerate(self._codec.strings):
            texts_of = [text[position] for text in texts]
            others[at] = self._strings(
                texts_of, self._fields[at].empty, _row(null, at, rows), _row(gone, at, rows)
            )
        for at in sorted(others):  # each finds all before it in place
            batch = batch.add_column(_OWN + at, self.schema.field(_OWN + at), others[at])
        one = missing is None and youngest == oldest
        statuses = self._one_band(oldest, rows) if one else self._statuses(age, missing)
        return batch.append_column(self._status, statuses)

    def _number_columns(
        self, block: Block, slots: Longs, masks: tuple[Bools | None, Bools | None, Bools | None]
    ) -> pa.RecordBatch:
        """The batch of all columns but booleans, strings and statuses; event times and ages are in place."""
        null, gone, missing = masks
        numbers = block.words[_OWN:]
        numbers[:] = slots[self._number_slots] if self._booleans else slots
        if gone is not None:
            np.copyto(numbers, self._empty, where=gone[self._numbers])
        if null is None:
            return block.batch(None)
        nulls = np.zeros(block.words.shape, dtype=np.bool_)
        if missing is not None:
            nulls[:_OWN] = missing
        nulls[_OWN:] = null[self._numbers]
        return block.batch(nulls)

    def _masks(
        self, heads: npt.NDArray[np.uint8], age: Longs, missing: Bools | None, *, expired: bool
    ) -> tuple[Bools | None, Bools | None]:
        """Per field and row: what is null in the end, and what reads as empty; None for nowhere."""
        bits = heads[:, self._codec.nulls]
        null: Bools | None = None
        if bits.any():
            null = np.unpackbits(bits, axis=1, count=len(self._fields), bitorder="little").T.astype(np.bool_)
        if missing is None and not expired:
            return null, None
        gone = age > self._ttls_ms
        if missing is not None:
            gone |= missing
        return np.where(gone, self._no_empty, False if null is None else null), gone

    def _readable(self, values: Sequence[bytes | None]) -> tuple[bytes, list[list[str]], Bools | None]:
        """The fixed parts of all rows, joined (blank where missing); the strings per row; which rows are
        missing, None for none."""
        if not self._codec.strings:
            absent = [row for row, value in enumerate(values) if value is None] if None in values else []
            present = (
                [self._codec.blank if value is None else value for value in values] if absent else values
            )
            joined = b"".join(present)  # type: ignore[arg-type]  # none of them is None
            if self._codec.check_joined(joined, len(values)):
                return joined, [], _mask(absent, len(values))
        return self._readable_one_by_one(values)

    def _readable_one_by_one(
        self, values: Sequence[bytes | None]
    ) -> tuple[bytes, list[list[str]], Bools | None]:
        heads: list[bytes] = []
        texts: list[list[str]] = []
        missing: list[int] = []
        codec = self._codec
        no_text = [""] * len(codec.strings)
        for row, value in enumerate(values):
            if value is not None:
                try:
                    codec.check(value)
                    texts.append(codec.decode_strings(value) if codec.strings else [])
                    heads.append(value[: codec.width])
                    continue
                except Unreadable as problem:
                    self._unreadable(problem.reason)
            missing.append(row)
            heads.append(codec.blank)
            texts.append(no_text)
        return b"".join(heads), texts, _mask(missing, len(values))

    def _strings(self, texts: list[str], empty: Value, null: list[bool], gone: list[bool]) -> pa.Array:
        return pa.array(
            [
                None if no_value else (empty if no_longer else text)
                for text, no_value, no_longer in zip(texts, null, gone, strict=True)
            ],
            pa.string(),
        )

    def _statuses(self, age: Longs, missing: Bools | None) -> pa.Array:
        """The column `status`: fields with one time to live share their statuses."""
        usable = np.full(len(age), FRESH, dtype=np.int8)
        if self._fresh_ms is not None:
            usable[age > self._fresh_ms] = STALE
        found: dict[int, pa.Array] = {}
        for ttl in set(self._ttls):
            codes = usable.copy()
            codes[age > ttl] = EXPIRED
            if missing is not None:
                codes[missing] = MISSING
            found[ttl] = _told(codes)
        return self._struct([found[ttl] for ttl in self._ttls], len(age))

    def _statuses_of_band(self, band: int, rows: int) -> pa.Array:
        """The column `status` of so many rows of one band."""
        statuses = self._bands.statuses[band].values()
        found = {status: _told(np.full(rows, STATUSES.index(status), dtype=np.int8)) for status in statuses}
        return self._struct([found[status] for status in statuses], rows)

    def _struct(self, statuses: list[pa.Array], rows: int) -> pa.Array:
        return pa.Array.from_buffers(self._status.type, rows, [None], children=statuses)


def _told(codes: npt.NDArray[np.int8]) -> pa.Array:
    """The statuses of these codes."""
    return pa.DictionaryArray.from_arrays(pa.array(codes), _DICTIONARY, safe=False)


def _mask(rows: Sequence[int], count: int) -> Bools | None:
    """True in these rows of so many; None for nowhere."""
    if not rows:
        return None
    mask = np.zeros(count, dtype=np.bool_)
    mask[rows] = True
    return mask


def _row(mask: Bools | None, at: int, rows: int) -> list[bool]:
    return [False] * rows if mask is None else mask[at].tolist()


def _longs(block: npt.NDArray[np.uint8]) -> Longs:
    """Rows of little endian 8-byte words, as one row per word."""
    columns: Longs = block.view("<i8").T
    return columns


def _bits(field: PackedField) -> int:
    """The slot of the empty value, as a long."""
    if field.kind == "double":
        return int(np.array(0.0 if field.empty is None else field.empty, dtype="<f8").view("<i8"))
    return int(field.empty or 0)
