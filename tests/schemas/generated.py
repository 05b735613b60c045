"""Generated record types and values, and a registry in memory, for the property tests of the codec."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import fastavro
import msgspec
from hypothesis import strategies as st

from core.errors import UnknownName
from schemas.record import Float32, Int32, Record, record

NAMES = [f"f{i}" for i in range(8)]
MILLIS = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)).map(
    lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=UTC)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "time": MILLIS,
    "bytes": st.binary(max_size=12),
}
HINTS: dict[str, Any] = {
    "string": str, "int": Int32, "long": int, "float": Float32, "double": float,
    "boolean": bool, "time": datetime, "bytes": bytes,
}  # fmt: skip


class RegistryOfTexts:
    """A registry that gives every text an id and forgets nothing."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def id_of(self, subject: str, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1

    def schema(self, schema_id: int) -> str:
        if not 1 <= schema_id <= len(self.texts):
            raise UnknownName("schema id", str(schema_id), ())
        return self.texts[schema_id - 1]


class Shape(msgspec.Struct, frozen=True):
    """A generated type: its annotation and the strategy of its values."""

    hint: Any
    values: st.SearchStrategy[Any]


@st.composite
def shapes(draw: Any, *, kinds: tuple[str, ...], depth: int = 2, counter: list[int]) -> Shape:
    nested = ("array", "map", "struct") if depth else ()
    kind = draw(st.sampled_from(kinds + nested))
    if kind in HINTS:
        shape = Shape(HINTS[kind], VALUES[kind])
    elif kind == "struct":
        count = draw(st.integers(1, 3))
        counter[0] += 1
        name = f"Inner{counter[0]}"
        parts = [draw(shapes(kinds=kinds, depth=depth - 1, counter=counter)) for _ in range(count)]
        fields = [(f"s{i}", part.hint) for i, part in enumerate(parts)]
        cls = msgspec.defstruct(name, fields, frozen=True)
        shape = Shape(cls, st.builds(cls, *[part.values for part in parts]))
    else:
        item = draw(shapes(kinds=kinds, depth=depth - 1, counter=counter))
        if kind == "array":
            shape = Shape(list[item.hint], st.lists(item.values, max_size=4))
        else:
            shape = Shape(dict[str, item.hint], st.dictionaries(TEXT, item.values, max_size=4))
    if draw(st.booleans()):
        return Shape(shape.hint | None, st.none() | shape.values)
    return shape


ALL = ("string", "int", "long", "float", "double", "boolean", "time")


@st.composite
def record_types(draw: Any, *, kinds: tuple[str, ...] = ALL, depth: int = 2) -> tuple[type[Record], Any]:
    """A record type and the strategy of its instances."""
    counter = [0]
    parts = {
        name: draw(shapes(kinds=kinds, depth=depth, counter=counter))
        for name in NAMES[: draw(st.integers(0, len(NAMES)))]
    }
    cls = make_record([(name, part.hint) for name, part in parts.items()])
    return cls, st.builds(
        cls, tenant=TEXT, id=TEXT, at=MILLIS, **{name: part.values for name, part in parts.items()}
    )


def make_record(fields: list[Any], name: str = "Generated") -> type[Record]:
    """A record type of these (name, annotation[, default]) fields, and an event time `at`."""
    cls = msgspec.defstruct(
        name, [("at", datetime), *fields], bases=(Record,), frozen=True, kw_only=True,
        namespace={"__module__": __name__, "__doc__": "Generated."},
    )  # fmt: skip
    return record(entity="id", time="at", namespace="test.generated")(cls)  # type: ignore[type-var]


def plain(value: Any) -> Any:
    """A record as fastavro's oracle wants it."""
    return msgspec.to_builtins(value, builtin_types=(datetime, bytes))


def oracle_encode(text: str, value: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(text)), plain(value))
    return stream.getvalue()


def oracle_decode(body: bytes, writer: str, reader: str | None = None) -> Any:
    read = None if reader is None else fastavro.parse_schema(json.loads(reader))
    return fastavro.schemaless_reader(io.BytesIO(body), fastavro.parse_schema(json.loads(writer)), read)
