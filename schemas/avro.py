"""Records to Avro: one compilation, one canonical text, and the schemas that are refused.

A record compiles to a named Avro record in field order. A time is a `timestamp-millis`; a nullable field is
`["null", T]` with default null (`[T, "null"]` when it has another default, as Avro wants the default's type
first). The text of a schema is JSON without spaces in a fixed key order, so equal records have equal text:
it is what the registry holds and, indented, what is committed under `schemas/avsc/`.

    python -m schemas.avro write [MODULE ...]     writes the committed files
    python -m schemas.avro check [MODULE ...]     tells which of them differ, exit code 1 if any does

Modules are further places to find records, such as a pipeline with an enriched topic.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from core.clock import to_millis
from core.errors import DeclarationError
from schemas.record import FieldSpec, Record, RecordSpec
from schemas.topic import Topic

_TYPES: Mapping[str, Any] = {
    "string": "string",
    "int": "int",
    "long": "long",
    "float": "float",
    "double": "double",
    "boolean": "boolean",
    "bytes": "bytes",
    "time": {"type": "long", "logicalType": "timestamp-millis"},
}
AVSC = Path(__file__).parent / "avsc"
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


def compile_schema(spec: RecordSpec) -> dict[str, Any]:
    """The Avro schema of a record. Raises DeclarationError for what `check_bans` refuses."""
    schema = _record(spec, {}, ())
    check_bans(schema, where=f"record {spec.full_name}")
    return schema


def schema_text(spec: RecordSpec) -> str:
    """The canonical text: what the registry is given. Equal declarations have equal text."""
    return text_of(compile_schema(spec))


def text_of(schema: Any) -> str:
    """A schema as JSON without spaces, keys in the order of the schema itself."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def check_bans(schema: Any, *, where: str | None = None) -> None:
    """Raise DeclarationError for a schema that is recursive or has an array of items without bytes.

    Recursion has no columns; a few bytes can claim 2^62 items of nothing, which exhausts memory. Both are
    refused wherever they hide: in fields, unions, maps and items.
    """
    _walk(schema, {}, (), "", where)


def _record(spec: RecordSpec, known: dict[str, RecordSpec], inside: tuple[str, ...]) -> dict[str, Any]:
    if spec.full_name in inside:
        raise DeclarationError(
            f"record {spec.full_name} contains itself", mend="refer to the other record by its id"
        )
    known[spec.full_name] = spec
    schema: dict[str, Any] = {"type": "record", "name": spec.name, "namespace": spec.namespace}
    if spec.doc:
        schema["doc"] = spec.doc
    schema["fields"] = [_field(field, known, (*inside, spec.full_name)) for field in spec.fields]
    return schema


def _field(field: FieldSpec, known: dict[str, RecordSpec], inside: tuple[str, ...]) -> dict[str, Any]:
    kind = _type(field, known, inside)
    out: dict[str, Any] = {"name": field.name}
    if field.nullable and field.has_default and field.default is not None:
        out["type"] = [kind, "null"]
    elif field.nullable:
        out["type"] = ["null", kind]
    else:
        out["type"] = kind
    if field.doc:
        out["doc"] = field.doc
    if field.nullable and (not field.has_default or field.default is None):
        out["default"] = None
    elif field.has_default:
        out["default"] = _default(field.default)
    return out


def _type(field: FieldSpec, known: dict[str, RecordSpec], inside: tuple[str, ...]) -> Any:
    if field.kind in ("array", "map"):
        if field.item is None:
            raise DeclarationError(f"field {field.name} is a {field.kind} of nothing")
        item = _type(field.item, known, inside)
        if field.item.nullable:
            item = ["null", item]
        return {"type": "array", "items": item} if field.kind == "array" else {"type": "map", "values": item}
    if field.kind == "struct":
        if field.struct is None:
            raise DeclarationError(f"field {field.name} is a struct without fields")
        if field.struct.full_name in known and field.struct.full_name not in inside:
            if known[field.struct.full_name] != field.struct:
                raise DeclarationError(
                    f"two records are named {field.struct.full_name}", mend="give one of them another name"
                )
            return field.struct.full_name
        return _record(field.struct, known, inside)
    return _TYPES[field.kind]


def _default(value: Any) -> Any:
    """A default as Avro's JSON writes it: times as milliseconds, bytes as ISO-8859-1 text."""
    if isinstance(value, datetime):
        return to_millis(value)
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, msgspec.Struct):
        return {name: _default(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): _default(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_default(item) for item in value]
    return value


def _walk(
    schema: Any, named: dict[str, bool], inside: tuple[str, ...], namespace: str, where: str | None
) -> bool:
    """Refuse what is banned; True when a value of the schema may take no bytes at all."""
    if isinstance(schema, list):
        for branch in schema:
            _walk(branch, named, inside, namespace, where)
        return False
    if isinstance(schema, str):
        if schema in _PRIMITIVES:
            return schema == "null"
        return _reference(schema, named, inside, namespace, where)
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(kind, dict | list):
        return _walk(kind, named, inside, namespace, where)
    if kind in ("record", "error"):
        name, below = _full_name(schema, namespace)
        empty = [
            _walk(field["type"], named, (*inside, name), below, where) for field in schema.get("fields", [])
        ]
        named[name] = all(empty)
        return named[name]
    if kind in ("enum", "fixed"):
        name, _ = _full_name(schema, namespace)
        named[name] = kind == "fixed" and schema.get("size", 0) == 0
        return named[name]
    if kind == "array":
        if _walk(schema["items"], named, inside, namespace, where):
            raise DeclarationError(
                "an array of items that take no bytes",
                where=where,
                mend="give the items a field, or send their count as a number",
            )
        return False
    if kind == "map":
        _walk(schema["values"], named, inside, namespace, where)
        return False
    if isinstance(kind, str):
        return _walk(kind, named, inside, namespace, where)
    raise DeclarationError(f"{schema!r} is no Avro schema", where=where)


def _reference(
    name: str, named: dict[str, bool], inside: tuple[str, ...], namespace: str, where: str | None
) -> bool:
    full = name if "." in name or not namespace else f"{namespace}.{name}"
    for candidate in (full, name):
        if candidate in inside:
            raise DeclarationError(
                f"record {candidate} contains itself", where=where, mend="refer to the other record by its id"
            )
        if candidate in named:
            return named[candidate]
    raise DeclarationError(f"the schema names {name!r}, which it does not define", where=where)


def _full_name(schema: Mapping[str, Any], namespace: str) -> tuple[str, str]:
    name = str(schema.get("name", ""))
    if "." in name:
        return name, name.rpartition(".")[0]
    below = str(schema.get("namespace", namespace))
    return (f"{below}.{name}" if below else name), below


def catalog(modules: Sequence[str] = ()) -> dict[str, type[Record]]:
    """Every record of `schemas/catalog/`, and of further modules or their topics, by full name."""
    found: dict[str, type[Record]] = {}
    package = importlib.import_module("schemas.catalog")
    shipped = [f"schemas.catalog.{info.name}" for info in pkgutil.iter_modules(package.__path__)]
    for module in (*sorted(shipped), *modules):
        for value in vars(importlib.import_module(module)).values():
            kind = value.record if isinstance(value, Topic) else value
            if isinstance(kind, type) and issubclass(kind, Record) and "__spec__" in kind.__dict__:
                found[kind.spec().full_name] = kind
    return found


def files(modules: Sequence[str] = ()) -> dict[Path, str]:
    """What the committed files must hold: path -> indented schema."""
    return {
        AVSC / f"{name}.avsc": json.dumps(compile_schema(cls.spec()), indent=2, ensure_ascii=False) + "\n"
        for name, cls in sorted(catalog(modules).items())
    }


def main(arguments: Sequence[str]) -> int:
    command, *modules = arguments or [""]
    if command not in ("write", "check"):
        sys.stderr.write("usage: python -m schemas.avro write|check [MODULE ...]\n")
        return 2
    expected = files(modules)
    differing = [path for path, text in expected.items() if not path.exists() or path.read_text() != text]
    for path in differing:
        sys.stdout.write(f"{path.name}\n")
        if command == "write":
            path.parent.mkdir(exist_ok=True)
            path.write_text(expected[path])
    return 1 if differing and command == "check" else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
