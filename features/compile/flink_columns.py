"""Records to Flink columns, and the small change of SQL text: quoting, literals, intervals."""

from datetime import timedelta

from core.errors import DeclarationError
from schemas.record import FieldSpec, RecordSpec

_TYPES = {
    "string": "STRING",
    "int": "INT",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
    "bytes": "BYTES",
    "time": "TIMESTAMP(3)",
}
_UNITS = (
    (timedelta(days=1), "DAY"),
    (timedelta(hours=1), "HOUR"),
    (timedelta(minutes=1), "MINUTE"),
    (timedelta(seconds=1), "SECOND"),
)


def columns_ddl(spec: RecordSpec, *, nullable: bool) -> list[str]:
    """One column per field, in order. With `nullable` no column is NOT NULL, whatever the record says."""
    return [
        f"{quote(field.name)} {column_type(field)}{'' if nullable or field.nullable else ' NOT NULL'}"
        for field in spec.fields
    ]


def column_type(field: FieldSpec) -> str:
    """The Flink type of a field; items and nested fields say NOT NULL where they cannot be null."""
    if field.kind in _TYPES:
        return _TYPES[field.kind]
    if field.kind == "array" and field.item is not None:
        return f"ARRAY<{_inner(field.item)}>"
    if field.kind == "map" and field.item is not None:
        return f"MAP<STRING NOT NULL, {_inner(field.item)}>"
    if field.kind == "struct" and field.struct is not None:
        inside = ", ".join(f"{quote(inner.name)} {_inner(inner)}" for inner in field.struct.fields)
        return f"ROW<{inside}>"
    raise DeclarationError(f"field {field.name!r} of kind {field.kind} has no Flink type")


def _inner(field: FieldSpec) -> str:
    return f"{column_type(field)}{'' if field.nullable else ' NOT NULL'}"


def quote(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("'", "''") + "'"


def interval(span: timedelta) -> str:
    """An interval literal, to the millisecond, below 100 days; in the largest unit that fits."""
    for unit, name in _UNITS:
        if unit <= span < 100 * unit and not span % unit:  # two digits: the default precision
            return f"INTERVAL '{span // unit}' {name}"
    minutes, seconds = divmod(span.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    parts = f"{span.days} {hours:02d}:{minutes:02d}:{seconds:02d}.{span.microseconds // 1000:03d}"
    return f"INTERVAL '{parts}' DAY TO SECOND(3)"
