"""Many packed values of one layout as one Arrow batch, with no Python step per value of a field.

Columns: `event_time` (timestamp[ms, UTC]) and `age_ms` (int64), null where the value is missing; one per
field (int64, float64, bool, string); `status`, a struct of one dictionary-encoded string per field.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.online.packed import PackedField, PackedLayout, Value
from features.online.packed_codec import CHECKSUM_BYTES, PREFIX_BYTES, VERSION, PackedCodec, Unreadable

STATUSES = ("fresh", "stale", "missing", "expired", "truncated")
FRESH, STALE, MISSING, EXPIRED, _ = range(len(STATUSES))
STATUS_TYPE = pa.dictionary(pa.int8(), pa.string())

_ARROW = {"long": pa.int64(), "double": pa.float64(), "boolean": pa.bool_(), "string": pa.string()}
_DICTIONARY = pa.array(STATUSES, pa.string())
_NULLS_AT = PREFIX_BYTES + VERSION.size

Bools = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]


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

    def __init__(self, codec: PackedCodec, unreadable: Callable[[str], None]) -> None:
        self.schema = schema_of(codec.layout)
        self._codec = codec
        self._unreadable = unreadable
        self._fields = codec.layout.fields
        self._fresh_ms = codec.layout.fresh_ms
        self._slots_at = _NULLS_AT + codec.null_bytes
        self._slots = np.array(codec.slots, dtype=np.int64)
        self._ttls = [codec.layout.field_ttl_ms(field) for field in self._fields]
        self._ttls_ms = np.array(self._ttls, dtype=np.int64)[:, None]
        self._empty = np.array([_bits(self._fields[at]) for at in codec.slots], dtype=np.int64)[:, None]
        self._no_empty = np.array([field.empty is None for field in self._fields])[:, None]
        self._shortest_ttl = min(self._ttls)
        self._status_type = self.schema.field("status").type
        self._row_type = pa.struct(list(self.schema))
        # without strings all values are equally long, and are joined as they are
        self._width = codec.fixed.size + (0 if codec.strings else CHECKSUM_BYTES)
        self._blank = bytes(self._width)

    def decode(self, values: Sequence[bytes | None], now_ms: int) -> pa.RecordBatch:
        """One row per value, in order; None, and what is unreadable, reads as missing."""
        heads, texts, missing = self._readable(values)
        rows = len(heads)
        block = np.frombuffer(b"".join(heads), dtype=np.uint8).reshape(rows, self._width)
        times = _longs(block[:, PREFIX_BYTES : PREFIX_BYTES + 8])[0]
        age = now_ms - times
        slots = _longs(block[:, self._slots_at : self._slots_at + 8 * len(self._slots)])
        null, gone = self._masks(block, age, missing)
        if gone is not None:
            slots = np.where(gone[self._slots], self._empty, slots)
        columns = self._numbers(slots, None if null is None else null[self._slots])
        for position, at in enumerate(self._codec.strings):
            texts_of = [text[position] for text in texts]
            columns[at] = self._strings(
                texts_of, self._fields[at].empty, _row(null, at, rows), _row(gone, at, rows)
            )
        statuses = self._statuses(age, missing)
        children = [
            pa.array(times.view("datetime64[ms]"), self.schema.field(0).type, mask=missing),
            pa.array(age, pa.int64(), mask=missing),
            *(columns[at] for at in range(len(self._fields))),
            pa.Array.from_buffers(
                self._status_type, rows, [None], children=[statuses[ttl] for ttl in self._ttls]
            ),
        ]
        # by way of a struct: RecordBatch.from_arrays takes ten times as long
        return pa.RecordBatch.from_struct_array(
            pa.Array.from_buffers(self._row_type, rows, [None], children=children)
        )

    def _masks(
        self, block: npt.NDArray[np.uint8], age: Longs, missing: Bools | None
    ) -> tuple[Bools | None, Bools | None]:
        """Per field and row: what is null in the end, and what reads as empty; None for nowhere."""
        bits = block[:, _NULLS_AT : self._slots_at]
        null: Bools | None = None
        if bits.any():
            null = np.unpackbits(bits, axis=1, count=len(self._fields), bitorder="little").T.astype(np.bool_)
        if missing is None and not (len(age) and age.max() > self._shortest_ttl):
            return null, None
        gone = age > self._ttls_ms
        if missing is not None:
            gone |= missing
        return np.where(gone, self._no_empty, False if null is None else null), gone

    def _readable(self, values: Sequence[bytes | None]) -> tuple[list[bytes], list[list[str]], Bools | None]:
        """Per row the fixed part (zeros where missing) and the strings; which rows are missing, None for
        none."""
        heads: list[bytes] = []
        texts: list[list[str]] = []
        missing: list[int] = []
        check, strings = self._codec.check, self._codec.strings
        no_text = [""] * len(strings)
        for row, value in enumerate(values):
            if value is not None:
                try:
                    check(value)
                    if strings:
                        texts.append(self._codec.decode_strings(value))
                        value = value[: self._width]
                    heads.append(value)
                    continue
                except Unreadable as problem:
                    self._unreadable(problem.reason)
            missing.append(row)
            heads.append(self._blank)
            texts.append(no_text)
        if not missing:
            return heads, texts, None
        mask = np.zeros(len(values), dtype=np.bool_)
        mask[missing] = True
        return heads, texts, mask

    def _numbers(self, slots: Longs, null: Bools | None) -> dict[int, pa.Array]:
        """The columns of all fields but strings: views of one buffer."""
        count, rows = slots.shape
        valid = None if null is None else pa.py_buffer(np.packbits(~null, bitorder="little"))
        buffers = [valid, pa.py_buffer(slots)]
        flat = {
            kind: pa.Array.from_buffers(_ARROW[kind], count * rows, buffers) for kind in ("long", "double")
        }
        columns: dict[int, pa.Array] = {}
        for position, at in enumerate(self._codec.slots):
            kind = self._fields[at].kind
            if kind == "boolean":
                mask = None if null is None else null[position]
                columns[at] = pa.array(slots[position] != 0, pa.bool_(), mask=mask)
            else:
                columns[at] = flat[kind].slice(position * rows, rows)
        return columns

    def _strings(self, texts: list[str], empty: Value, null: list[bool], gone: list[bool]) -> pa.Array:
        return pa.array(
            [
                None if no_value else (empty if no_longer else text)
                for text, no_value, no_longer in zip(texts, null, gone, strict=True)
            ],
            pa.string(),
        )

    def _statuses(self, age: Longs, missing: Bools | None) -> dict[int, pa.Array]:
        """By time to live."""
        usable = np.full(len(age), FRESH, dtype=np.int8)
        if self._fresh_ms is not None:
            usable[age > self._fresh_ms] = STALE
        found: dict[int, pa.Array] = {}
        for ttl in set(self._ttls):
            codes = usable.copy()
            codes[age > ttl] = EXPIRED
            if missing is not None:
                codes[missing] = MISSING
            found[ttl] = pa.DictionaryArray.from_arrays(pa.array(codes), _DICTIONARY)
        return found


def _row(mask: Bools | None, at: int, rows: int) -> list[bool]:
    return [False] * rows if mask is None else mask[at].tolist()


def _longs(block: npt.NDArray[np.uint8]) -> Longs:
    """Rows of little endian 8-byte words, as one contiguous row per word."""
    columns: Longs = np.ascontiguousarray(block.view("<i8").T)
    return columns


def _bits(field: PackedField) -> int:
    """The slot of the empty value, as a long."""
    if field.kind == "double":
        return int(np.array(0.0 if field.empty is None else field.empty, dtype="<f8").view("<i8"))
    return int(field.empty or 0)
