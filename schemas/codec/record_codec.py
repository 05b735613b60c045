"""One record type on one subject: records and columns to wire bytes and back."""

import io
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar, cast

import fastavro
import msgspec
import numpy as np
import pyarrow as pa

from core.errors import DeclarationError, Malformed, Rejected, TooLarge, UnknownName
from schemas.avro import compile_schema, text_of
from schemas.codec import native
from schemas.codec.columns import arrow_schema, fit, nulls_in, plain_rows
from schemas.codec.single import Decode, compile_decoder, compile_encoder
from schemas.codec.wire import HEADER, MAGIC, BadMessage, DecodedBatch, Undecodable, schema_id_of, wire_header
from schemas.codec.writers import Writer, column_default, quick
from schemas.record import Record
from schemas.registry import Schemas

R = TypeVar("R", bound=Record)

MAX_BYTES = 1_048_576
BATCH_BYTES = 1 << 30  # Arrow's strings have 31-bit offsets: above this a batch is refused, not overflown


class RecordCodec(Generic[R]):
    """Encodes with the record's own schema, decodes what any older or newer writer wrote.

    The registry is asked on first use: for the own schema's id when encoding, for a writer's schema when its
    id is first met. While it is away both raise Unavailable, and nothing is called a bad message for it.
    `max_bytes` caps one message, header included.
    """

    def __init__(
        self, record_type: type[R], registry: Schemas, subject: str, *, max_bytes: int = MAX_BYTES
    ) -> None:
        self.record_type = record_type
        self.spec = record_type.spec()
        self.subject = subject
        self.max_bytes = max_bytes
        self.columns = arrow_schema(self.spec)
        self._registry = registry
        self._schema = compile_schema(self.spec)
        self.text = text_of(self._schema)
        self._parsed = fastavro.parse_schema(json.loads(self.text))
        self._quick = quick(self._schema)
        self._defaults = {f["name"]: column_default(f) for f in self._schema["fields"] if "default" in f}
        self._head: bytes | None = None
        self._writers: dict[int, Writer | BadMessage] = {}
        self._encode_one = compile_encoder(self.spec)
        self._decoders: dict[int, Decode | None] = {}

    def warm(self) -> None:
        """Ask the registry now, so that the first record does not wait for it. Raises Unavailable."""
        self._header()

    def encode(self, record: R) -> bytes:
        """One record. Raises Rejected when a value is not of its type, TooLarge above the cap."""
        try:
            value = self._encode_one(self._header(), record)
        except (ValueError, TypeError, OverflowError, AttributeError, struct.error) as error:
            raise Rejected(
                f"a value does not fit the record: {error}",
                fields={"": str(error)},
                where=self.spec.full_name,
                mend="build records from checked input, e.g. msgspec.convert(values, the record type)",
            ) from error
        return self._capped(value)

    def decode(self, data: bytes) -> R:
        """One value. Raises Malformed, TooLarge for the cap; the code is that of `BadMessage`."""
        bad = self._misfit(data)
        if bad is not None:
            raise self._error(bad)
        schema_id = schema_id_of(data)
        decode = self._decoders.get(schema_id)
        try:
            plain = decode(data, HEADER) if decode is not None else self._decode_general(schema_id, data)
        except (ValueError, IndexError, OverflowError, struct.error):
            plain = self._decode_general(schema_id, data)
        try:
            return msgspec.convert(plain, self.record_type)
        except msgspec.ValidationError as error:
            raise Malformed(str(error), where=self.spec.full_name, code="malformed_record") from error

    def _decode_general(self, schema_id: int, data: bytes) -> dict[str, Any]:
        """As a batch of one: for new writers, for schemas that do not unroll, and to say what is wrong."""
        writer = self._writer(schema_id)
        if isinstance(writer, BadMessage):
            raise self._error((writer.code, writer.reason))
        try:
            batch = writer.decode([data])
        except Undecodable as error:
            raise self._error((error.code, error.reason)) from None
        if schema_id not in self._decoders:
            self._decoders[schema_id] = compile_decoder(writer.schema, self.spec)
        try:
            return plain_rows(batch, self.spec.fields)[0]
        except (ValueError, OverflowError) as error:  # a time within a struct or a list
            raise self._error(("out_of_range", str(error))) from None

    def encode_batch(self, batch: pa.RecordBatch) -> list[bytes]:
        """A batch, row by row in order, in one call.

        Columns go by name and are cast without loss; a missing column takes its default. Raises Rejected with
        every column that does not fit or has nulls where none is allowed.
        """
        where = f"record {self.spec.full_name}"
        batch = fit(batch, self.columns, self._defaults, where)
        nulls: dict[str, str] = {}
        for i, field in enumerate(self.spec.fields):
            if not field.nullable or field.kind in ("array", "map", "struct"):
                nulls_in(batch.column(i), field, f"/{field.name}", nulls)
        if nulls:
            raise Rejected("nulls where none is allowed", fields=nulls, where=where)
        head = self._header()
        try:
            out = _sliced(head, batch, self.text) if self._quick else self._encode_slow(head, batch)
        except native.NotTaken:
            out = self._encode_slow(head, batch)
        if out and max(map(len, out)) > self.max_bytes:
            self._capped(max(out, key=len))
        return out

    def decode_batch(self, values: Sequence[bytes | None]) -> DecodedBatch:
        """A list of values, in order, whoever wrote them.

        When all are good and of one writer this is one call. A bad one is found by bisection, so the others
        never pay a decode each. Raises Unavailable when a new id cannot be looked up, TooLarge when the list
        holds more than 1 GiB.
        """
        alike = self._decode_alike(values)
        if alike is not None:
            return DecodedBatch(alike, np.arange(len(values)), [])
        good, kept, bad = self._sorted_out(values)
        groups: dict[int, list[int]] = {}
        for i, value in enumerate(good):
            groups.setdefault(schema_id_of(value), []).append(i)
        batches: list[pa.RecordBatch] = []
        order: list[int] = []
        for schema_id, members in groups.items():
            writer = self._writer(schema_id)
            if isinstance(writer, BadMessage):
                bad.extend(BadMessage(kept[i], writer.code, writer.reason) for i in members)
                continue
            every = len(members) == len(good)
            chosen = good if every else [good[i] for i in members]
            for part, indexes in _isolated(
                writer, chosen, kept if every else [kept[i] for i in members], bad
            ):
                batches.append(part)
                order.extend(indexes)
        bad.sort(key=lambda message: message.index)
        return _joined(batches, np.array(order, np.int64), self.columns, bad)

    def _decode_alike(self, values: Sequence[bytes | None]) -> pa.RecordBatch | None:
        """The batch, where all values are good and of one writer; None where that is not so."""
        try:
            longest = max(map(len, cast("Sequence[bytes]", values)), default=0)
        except TypeError:
            return None
        first = values[0] if values else None
        if longest > self.max_bytes or longest * len(values) > BATCH_BYTES:
            return None
        if first is None or len(first) < HEADER or first[0] != MAGIC:
            return None
        writer = self._writer(schema_id_of(first))
        if isinstance(writer, BadMessage) or not writer.quick:
            return None
        try:
            return writer.decode(cast("Sequence[bytes]", values))
        except Undecodable:
            return None

    def _sorted_out(self, values: Sequence[bytes | None]) -> tuple[list[bytes], list[int], list[BadMessage]]:
        """The values that have a header and keep to the cap, their indexes, and the others."""
        size = sum(len(value) for value in values if value is not None)
        if size > BATCH_BYTES:
            raise TooLarge(
                f"a batch of {size} bytes",
                where=self.subject,
                mend=f"decode at most {BATCH_BYTES} at once",
            )
        good: list[bytes] = []
        kept: list[int] = []
        bad: list[BadMessage] = []
        for i, value in enumerate(values):
            misfit = self._misfit(value)
            if misfit is None and value is not None:
                good.append(value)
                kept.append(i)
            elif misfit is not None:
                bad.append(BadMessage(i, *misfit))
        return good, kept, bad

    def _misfit(self, value: bytes | None) -> Any:
        if value is None:
            return "not_avro", "there is no value"
        if len(value) > self.max_bytes:
            return "too_large", f"{len(value)} bytes, the cap is {self.max_bytes}"
        if len(value) < HEADER:
            return "not_avro", f"{len(value)} bytes, the header alone has {HEADER}"
        if value[0] != MAGIC:
            return "not_avro", f"the first byte is {value[0]}, not {MAGIC}"
        return None

    def _writer(self, schema_id: int) -> Writer | BadMessage:
        known = self._writers.get(schema_id)
        if known is not None:
            return known
        try:
            text = self._registry.schema(schema_id)
        except UnknownName:  # not remembered here: it may be registered later, the registry client paces it
            return BadMessage(-1, "unknown_schema", f"the registry has no schema {schema_id}")
        found: Writer | BadMessage
        try:
            found = Writer(text, self._schema, self.columns)
        except (DeclarationError, ValueError, KeyError, TypeError) as error:
            reason = f"schema {schema_id} cannot be read as {self.spec.full_name}: {error}"
            found = BadMessage(-1, "incompatible_schema", reason)
        self._writers[schema_id] = found
        return found

    def _header(self) -> bytes:
        if self._head is None:
            self._head = wire_header(self._registry.id_of(self.subject, self.text))
        return self._head

    def _capped(self, value: bytes) -> bytes:
        if len(value) > self.max_bytes:
            raise TooLarge(
                f"a record of {len(value)} bytes, the cap is {self.max_bytes}",
                where=self.subject,
                mend="send less, or raise max_bytes of the topic",
            )
        return value

    def _error(self, bad: tuple[str, str]) -> Malformed | TooLarge:
        kind: Callable[..., Malformed | TooLarge] = TooLarge if bad[0] == "too_large" else Malformed
        return kind(bad[1], where=self.subject, code=bad[0])

    def _encode_slow(self, head: bytes, batch: pa.RecordBatch) -> list[bytes]:
        out = []
        for row in plain_rows(batch, self.spec.fields):
            stream = io.BytesIO()
            fastavro.schemaless_writer(stream, self._parsed, row)
            out.append(head + stream.getvalue())
        return out


def _sliced(head: bytes, batch: pa.RecordBatch, text: str) -> list[bytes]:
    """One encoded buffer cut at its offsets: a third of the cost of `to_pylist`."""
    out: list[bytes] = []
    for array in native.encode(batch, text):
        _, offsets, data = array.buffers()
        if not len(array):
            continue
        cuts = np.frombuffer(offsets, np.int32, count=len(array) + 1 + array.offset)[array.offset :].tolist()
        content = data.to_pybytes() if data is not None else b""
        out.extend([head + content[start:end] for start, end in pairwise(cuts)])
    return out


def _isolated(
    writer: Writer, values: list[bytes], indexes: list[int], bad: list[BadMessage]
) -> Iterator[tuple[pa.RecordBatch, list[int]]]:
    """Decode, halving where something is bad: k bad ones of n cost about k log n calls."""
    waiting = [(values, indexes)]
    while waiting:
        part, at = waiting.pop()
        try:
            yield writer.decode(part), at
        except Undecodable as error:
            if len(part) == 1:
                bad.append(BadMessage(at[0], error.code, error.reason))
                continue
            middle = len(part) // 2
            waiting.append((part[middle:], at[middle:]))
            waiting.append((part[:middle], at[:middle]))


def _joined(
    batches: list[pa.RecordBatch], order: Any, columns: pa.Schema, bad: list[BadMessage]
) -> DecodedBatch:
    if len(batches) == 1:
        return DecodedBatch(batches[0], order, bad)
    table = pa.Table.from_batches(batches, schema=columns).combine_chunks()
    if len(order) > 1 and (order[1:] < order[:-1]).any():
        rank = np.argsort(order, kind="stable")
        table, order = table.take(pa.array(rank)).combine_chunks(), order[rank]
    parts = table.to_batches()
    return DecodedBatch(parts[0] if parts else pa.RecordBatch.from_pylist([], schema=columns), order, bad)
