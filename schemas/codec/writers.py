"""Reading what one writer wrote: its schema, resolved once to this record's columns.

The quick way decodes a whole list in one `pyruhvro` call and takes, widens or fills columns. Where it does
not do (bytes, fixed, differences inside nested records, null that may no longer be), `fastavro` resolves
message by message: slower, same result.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

from core.clock import to_millis
from core.errors import DeclarationError
from schemas.avro import check_bans, text_of
from schemas.codec import native
from schemas.codec.columns import constant, holds_text, rebind, same_layout
from schemas.codec.wire import HEADER, Undecodable
from schemas.evolution import describe, diff

# The wire header goes through the decoder too, as a boolean (the magic zero) and a float (four bytes of id):
# no message has to be cut, and the headers of a whole batch are compared as one column.
_MAGIC, _ID, _END = "__magic__", "__id__", "__end__"
_HEAD: list[dict[str, str]] = [{"name": _MAGIC, "type": "boolean"}, {"name": _ID, "type": "float"}]
_FIRST = len(_HEAD)  # the first column of the record itself
# pyruhvro does not tell bytes left over. So eight random bytes follow every body and are read as one more
# field: a body that is too short cannot be read, one that is too long misses the mark.
_MARK = os.urandom(8)
_MARK_VALUE = np.frombuffer(_MARK, np.int64)[0]
# what Python's datetime can hold: a time beyond it would fail every reader further down
TIME_FIRST = to_millis(datetime.min.replace(tzinfo=UTC))
TIME_LAST = to_millis(datetime.max.replace(tzinfo=UTC))
_QUICK = frozenset({"boolean", "int", "long", "float", "double", "string"})
_QUICK_LOGICAL = frozenset({"date", "timestamp-millis", "timestamp-micros"})
_UNREADABLE = (
    EOFError, IndexError, ValueError, KeyError, TypeError, OverflowError, AttributeError, StopIteration,
    fastavro.read.SchemaResolutionError, MemoryError,
)  # fmt: skip


class Writer:
    """Decodes bodies written with one schema into the columns of the reader's record.

    Raises DeclarationError when the schema is banned or cannot be read as the record.
    """

    def __init__(self, writer: Any, reader: Mapping[str, Any], columns: pa.Schema) -> None:
        schema = json.loads(writer) if isinstance(writer, str) else writer
        schema = _unwrapped(schema)
        check_bans(schema)
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise DeclarationError(f"the writer's schema is no record but {describe(schema)}")
        self.columns = columns
        self._reader = reader
        self.schema = schema
        self._fields = {field["name"]: field for field in schema["fields"]}
        missing = [
            f["name"] for f in reader["fields"] if f["name"] not in self._fields and "default" not in f
        ]
        if missing:
            raise DeclarationError(f"the writer has no {', '.join(missing)}, which have no default")
        self._times = [i for i, column in enumerate(columns) if pa.types.is_timestamp(column.type)]
        self._take: list[int | None] = []
        self._cast: list[pa.DataType | None] = []
        self.quick = self._plan()
        self._slow_writer: Any = None
        self._slow_reader: Any = None

    def decode(self, values: Sequence[bytes]) -> pa.RecordBatch:
        """Whole wire values, header included, all with this writer's id. Raises Undecodable."""
        try:
            batch = self._decode_quick(values) if self.quick else self._decode_slow(values)
        except native.NotTaken:
            batch = self._decode_slow(values)
        for i in self._times:
            data = batch.column(i).buffers()[1]
            millis = np.frombuffer(data, np.int64, count=len(values))
            if millis.min() < TIME_FIRST or millis.max() > TIME_LAST:
                raise Undecodable(
                    "out_of_range", f"{batch.schema.names[i]} is a time outside the years 1 to 9999"
                )
        return batch

    def _plan(self) -> bool:
        """Fill the plan of columns; False when the quick way does not do."""
        if not quick(self.schema):
            return False
        order = list(self._fields)
        fields = [{"name": f["name"], "type": _bare(f["type"])} for f in self.schema["fields"]]
        marked = {**_head(self.schema), "fields": [*_HEAD, *fields, {"name": _END, "type": "double"}]}
        self._text = text_of(marked)
        try:
            decoded = native.schema_of(self._text)
        except native.NotTaken:
            return False
        types = [field.type for field in decoded]
        for field, column in zip(self._reader["fields"], self.columns, strict=True):
            written = self._fields.get(field["name"])
            if written is None:
                self._take.append(None)
                self._cast.append(None)
                continue
            changes = _changes(written, field, self.schema, self._reader)
            at = order.index(field["name"]) + _FIRST
            if same_layout(types[at], column.type) and all(not change.rule for change in changes):
                types[at] = column.type
                self._cast.append(None)
            elif len(changes) == 1 and not changes[0].rule and changes[0].path == field["name"]:
                if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
                    return False
                self._cast.append(column.type)
            else:
                return False
            self._take.append(at)
        bound = [pa.field(decoded.field(i).name, kind) for i, kind in enumerate(types)]
        count = len(self.columns)
        self._wanted = list(range(_FIRST, _FIRST + count))
        self._straight = self._take == self._wanted and count == len(order) and not any(self._cast)
        if self._straight:
            bound = [*bound[:_FIRST], *self.columns, bound[-1]]
        self._bound = pa.schema(bound)
        self._end = _FIRST + len(order)
        self._texts = [i for i in range(_FIRST, self._end) if holds_text(decoded.field(i).type)]
        return True

    def _decode_quick(self, values: Sequence[bytes]) -> pa.RecordBatch:
        mark, head = _MARK, values[0][:HEADER]
        try:
            batch = native.decode([value + mark for value in values], self._text)
        except ValueError as error:
            raise Undecodable("truncated", f"the body is no record of its schema: {error}") from None
        ids = np.frombuffer(batch.column(1).buffers()[1], "<u4", count=len(values))
        if batch.column(0).true_count or not (ids == int.from_bytes(head[1:], "little")).all():
            raise Undecodable("not_avro", "the values are not all of one writer")
        ends = np.frombuffer(batch.column(self._end).buffers()[1], np.int64, count=len(values))
        if not (ends == _MARK_VALUE).all():
            raise Undecodable("trailing_bytes", "the body goes on after the record")
        if self._texts:
            try:
                batch.select(self._texts).validate(full=True)
            except pa.ArrowInvalid as error:
                raise Undecodable("invalid_utf8", str(error)) from None
        batch = rebind(batch, self._bound)
        if self._straight:
            return batch.select(self._wanted)
        arrays = []
        for field, column, at, cast in zip(
            self._reader["fields"], self.columns, self._take, self._cast, strict=True
        ):
            if at is None:
                arrays.append(constant(column_default(field), len(values), column.type))
            else:
                array = batch.column(at)
                arrays.append(array if cast is None else array.cast(cast, safe=False))
        return pa.RecordBatch.from_arrays(arrays, schema=self.columns)

    def _decode_slow(self, values: Sequence[bytes]) -> pa.RecordBatch:
        if self._slow_writer is None:
            self._slow_writer = fastavro.parse_schema(without_logical(self.schema))
            renamed = {**without_logical(self._reader), **_head(self.schema)}
            self._slow_reader = fastavro.parse_schema(renamed)
        rows = []
        for value in values:
            stream = io.BytesIO(value[HEADER:])
            try:
                rows.append(fastavro.schemaless_reader(stream, self._slow_writer, self._slow_reader))
            except UnicodeDecodeError as error:
                raise Undecodable("invalid_utf8", str(error)) from None
            except _UNREADABLE as error:
                reason = f"the body is no record of its schema: {type(error).__name__} {error}"
                raise Undecodable("truncated", reason) from None
            if stream.tell() != len(value) - HEADER:
                raise Undecodable("trailing_bytes", "the body goes on after the record")
        try:
            return pa.RecordBatch.from_pylist(rows, schema=self.columns)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise Undecodable("truncated", f"a value out of its type's bounds: {error}") from None


def quick(schema: Any) -> bool:
    """Whether pyruhvro takes the schema: no bytes, no fixed, no unions of several types, no empty record."""
    if isinstance(schema, list):
        return len(schema) == 2 and schema.count("null") == 1 and all(quick(b) for b in schema if b != "null")
    if isinstance(schema, str):
        return schema in _QUICK or schema not in ("null", "bytes")
    kind = schema.get("type")
    if schema.get("logicalType") is not None and schema["logicalType"] not in _QUICK_LOGICAL:
        return False
    if kind == "record":
        fields = schema.get("fields", [])
        return bool(fields) and all(quick(field["type"]) for field in fields)
    if kind == "array":
        return quick(schema["items"])
    if kind == "map":
        return quick(schema["values"])
    if kind == "fixed":
        return False
    return kind == "enum" or quick(kind)


def without_logical(schema: Any) -> Any:
    """The schema with plain numbers for times, as columns are built from them without datetimes."""
    if isinstance(schema, list):
        return [without_logical(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key != "logicalType"}
    for key in ("type", "items", "values"):
        if isinstance(kept.get(key), dict | list):
            kept[key] = without_logical(kept[key])
    if "fields" in kept:
        kept["fields"] = [without_logical(field) for field in kept["fields"]]
    return kept


def column_default(field: Mapping[str, Any]) -> Any:
    """The Avro default of a field as an Arrow value: maps as pairs, bytes as bytes."""
    return _arrow_value(field["default"], field["type"])


def _arrow_value(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, list):
        kind = next(branch for branch in kind if branch != "null")
    if kind == "bytes":
        return value.encode("latin-1")
    if isinstance(kind, dict) and kind.get("type") == "map":
        return [(key, _arrow_value(item, kind["values"])) for key, item in value.items()]
    if isinstance(kind, dict) and kind.get("type") == "array":
        return [_arrow_value(item, kind["items"]) for item in value]
    if isinstance(kind, dict) and kind.get("type") == "record":
        return {field["name"]: _arrow_value(value[field["name"]], field["type"]) for field in kind["fields"]}
    return value


def _changes(written: Any, field: Any, writer: Any, reader: Any) -> list[Any]:
    """What differs between two fields, default aside, with the names of both schemas in reach."""
    name = field["name"]
    found = diff(
        {
            **writer,
            "fields": [f for f in writer["fields"] if f["name"] != name]
            + [{"name": name, "type": written["type"]}],
        },
        {
            **reader,
            "fields": [f for f in reader["fields"] if f["name"] != name]
            + [{"name": name, "type": field["type"]}],
        },
    )
    return [c for c in found if c.path == name or c.path.startswith((f"{name}.", f"{name}[", f"{name}{{"))]


def _bare(schema: Any) -> Any:
    """Without documentation, defaults and aliases, which decoding does not need."""
    if isinstance(schema, list):
        return [_bare(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: v for k, v in schema.items() if k not in ("doc", "default", "aliases", "fields")}
    for key in ("type", "items", "values"):
        if isinstance(kept.get(key), dict | list):
            kept[key] = _bare(kept[key])
    if "fields" in schema:
        kept["fields"] = [{"name": f["name"], "type": _bare(f["type"])} for f in schema["fields"]]
    return kept


def _head(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("type", "name", "namespace") if key in schema}


def _unwrapped(schema: Any) -> Any:
    """`{"type": {"type": "record", ...}}` is the record itself."""
    while isinstance(schema, dict) and isinstance(schema.get("type"), dict):
        schema = schema["type"]
    return schema
