"""One record at a time: encoders and decoders written for one schema.

A record of 120 columns takes a generic reader about as many calls and branches as it has fields. Here the
schema is unrolled once into straight Python code, checked like any other code by the property tests against
`fastavro`. Where unrolling does not do, `None` is returned and the caller takes the general way.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from core.clock import EPOCH, from_millis, to_millis
from schemas.evolution import WIDENS
from schemas.record import FieldSpec, RecordSpec

Encode = Callable[[bytes, Any], bytes]
Decode = Callable[[bytes, int], dict[str, Any]]

_SMALL = 4096
_MAX_DEPTH = 12  # Python refuses more than 20 nested blocks; a record this deep takes the general way


def compile_encoder(spec: RecordSpec) -> Encode:
    """`encode(header, record) -> bytes`. Raises ValueError, TypeError, AttributeError or struct.error for a
    value that is not of its field's type; integers out of bounds are ValueError."""
    source = _Source("def encode(head, r):", "    out = bytearray(head)")
    for field in spec.fields:
        _write(source, field, f"r.{field.name}", 1, leading_null=_null_first(field))
    source.add(1, "return bytes(out)")
    return source.build("encode", _ENCODE_NAMES)  # type: ignore[no-any-return]


def compile_decoder(writer: Mapping[str, Any], reader: RecordSpec) -> Decode | None:
    """`decode(value, start) -> dict` of what the writer's schema holds, by the reader's field names.

    Fields that the reader does not have are skipped; those the writer lacks are left out where the record has
    a default and None otherwise. Any failure is an exception of no particular type: the caller decodes again
    the general way to say what is wrong. None when the schemas do not unroll.
    """
    source = _Source("def decode(d, p):")
    try:
        _read_record(source, writer, reader, "top", 1, {}, 0)
    except _NotUnrolled:
        return None
    source.add(1, "if p != len(d): raise ValueError('bytes left over or missing')", "return top")
    return source.build("decode", _DECODE_NAMES)  # type: ignore[no-any-return]


class _NotUnrolled(Exception):
    pass


class _Source:
    """Lines of a function under construction."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.names = 0

    def add(self, depth: int, *lines: str) -> None:
        self.lines.extend("    " * depth + line for line in lines)

    def name(self) -> str:
        self.names += 1
        return f"v{self.names}"

    def build(self, name: str, names: Mapping[str, Any]) -> Any:
        space = dict(names)
        exec(compile("\n".join(self.lines), f"<{name} of a schema>", "exec"), space)
        return space[name]


def _zigzag(value: int) -> bytes:
    """A long of any size that fits 64 bits, as Avro writes it."""
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{value} does not fit 64 bits")
    number = (value << 1) ^ (value >> 63)
    if number < 1 << 14:
        return bytes((number & 0x7F | 0x80, number >> 7)) if number > 0x7F else bytes((number,))
    if number < 1 << 21:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _int(value: int) -> bytes:
    if not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{value} does not fit 32 bits")
    return _zigzag(value)


def _more(d: bytes, p: int, n: int) -> tuple[int, int]:
    """The rest of a variable-length number whose first byte `n` has its high bit set."""
    n &= 0x7F
    shift = 7
    while True:
        byte = d[p]
        p += 1
        n |= (byte & 0x7F) << shift
        if byte < 0x80:
            return n & 0xFFFFFFFFFFFFFFFF, p
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


_NUMBERS = [_zigzag(n) for n in range(_SMALL)]
_ENCODE_NAMES: dict[str, Any] = {
    "SMALL": _NUMBERS,
    "SMALL_0": [b"\x00" + number for number in _NUMBERS],  # behind the byte that says which of two branches
    "SMALL_2": [b"\x02" + number for number in _NUMBERS],
    "long": _zigzag,
    "int32": _int,
    "pack_f": struct.Struct("<f").pack,
    "pack_d": struct.Struct("<d").pack,
    "pack_nf": struct.Struct("<Bf").pack,
    "pack_nd": struct.Struct("<Bd").pack,
    "to_millis": to_millis,
}
_DECODE_NAMES: dict[str, Any] = {
    "more": _more,
    "unpack_f": struct.Struct("<f").unpack_from,
    "unpack_d": struct.Struct("<d").unpack_from,
    "from_millis": from_millis,
    "EPOCH": EPOCH,
}


def _null_first(field: FieldSpec) -> bool:
    return not (field.has_default and field.default is not None)


def _write(source: _Source, field: FieldSpec, value: str, depth: int, *, leading_null: bool) -> None:
    if not field.nullable:
        _write_value(source, field, value, depth, "")
        return
    name = source.name()
    null, present = ("0", "2") if leading_null else ("2", "0")
    source.add(depth, f"{name} = {value}", f"if {name} is None: out.append({null})", "else:")
    _write_value(source, field, name, depth + 1, present)


def _write_value(source: _Source, field: FieldSpec, value: str, depth: int, branch: str) -> None:
    """`branch` is the union's branch byte to be written first, or nothing."""
    if branch and field.kind in ("float", "double"):
        source.add(depth, f"out += pack_n{field.kind[0]}({branch}, {value})")
        return
    if branch and field.kind in ("long", "int"):
        source.add(depth, f"if 0 <= {value} < {_SMALL}: out += SMALL_{branch}[{value}]")
        source.add(
            depth,
            f"else: out.append({branch}); out += {'long' if field.kind == 'long' else 'int32'}({value})",
        )
        return
    if branch:
        source.add(depth, f"out.append({branch})")
    if field.kind in ("string", "bytes"):
        name = source.name()
        source.add(depth, f"{name} = {value}.encode()" if field.kind == "string" else f"{name} = {value}")
        source.add(
            depth, f"n = len({name})", f"out += SMALL[n] if n < {_SMALL} else long(n)", f"out += {name}"
        )
    elif field.kind == "long":
        name = source.name()
        source.add(depth, f"{name} = {value}")
        source.add(depth, f"out += SMALL[{name}] if 0 <= {name} < {_SMALL} else long({name})")
    elif field.kind == "int":
        name = source.name()
        source.add(depth, f"{name} = {value}")
        source.add(depth, f"out += SMALL[{name}] if 0 <= {name} < {_SMALL} else int32({name})")
    elif field.kind == "time":
        source.add(depth, f"out += long(to_millis({value}))")
    elif field.kind in ("float", "double"):
        source.add(depth, f"out += pack_{field.kind[0]}({value})")
    elif field.kind == "boolean":
        source.add(depth, f"out.append(1 if {value} else 0)")
    elif field.kind == "struct" and field.struct is not None:
        name = source.name()
        source.add(depth, f"{name} = {value}")
        for inner in field.struct.fields:
            _write(source, inner, f"{name}.{inner.name}", depth, leading_null=_null_first(inner))
    elif field.item is not None:
        _write_many(source, field, field.item, value, depth)


def _write_many(source: _Source, field: FieldSpec, item: FieldSpec, value: str, depth: int) -> None:
    name, each = source.name(), source.name()
    source.add(depth, f"{name} = {value}", f"if {name}:", f"    out += long(len({name}))")
    if field.kind == "map":
        key = source.name()
        source.add(depth + 1, f"for {key}, {each} in {name}.items():", f"    {key} = {key}.encode()")
        source.add(depth + 2, f"out += long(len({key}))", f"out += {key}")
    else:
        source.add(depth + 1, f"for {each} in {name}:")
    _write(source, item, each, depth + 2, leading_null=True)
    source.add(depth, "out.append(0)")


def _read_record(
    source: _Source,
    writer: Mapping[str, Any],
    reader: RecordSpec | None,
    target: str,
    depth: int,
    named: dict[str, Any],
    level: int,
) -> None:
    if level > _MAX_DEPTH:
        raise _NotUnrolled
    name = str(writer.get("name", ""))
    named[name] = writer
    if "namespace" in writer:
        named[f"{writer['namespace']}.{name}"] = writer
    wanted = {} if reader is None else {field.name: field for field in reader.fields}
    pairs = []
    for part in writer["fields"]:
        value = source.name()
        _read(source, part["type"], wanted.get(part["name"]), value, depth, named, level + 1)
        if part["name"] in wanted:
            pairs.append(f"{part['name']!r}: {value}")
            del wanted[part["name"]]
    for field in wanted.values():
        if not field.has_default:
            if not field.nullable:
                raise _NotUnrolled
            pairs.append(f"{field.name!r}: None")
    source.add(depth, f"{target} = {{{', '.join(pairs)}}}")


def _number(source: _Source, target: str, depth: int) -> None:
    source.add(
        depth, "n = d[p]; p += 1", "if n > 127: n, p = more(d, p, n)", f"{target} = (n >> 1) ^ -(n & 1)"
    )


def _read(
    source: _Source,
    kind: Any,
    field: FieldSpec | None,
    target: str,
    depth: int,
    named: dict[str, Any],
    level: int,
) -> None:
    """Code that reads a value of the writer's type `kind` into `target`; `field` None reads and drops it."""
    if isinstance(kind, list):
        if len(kind) != 2 or "null" not in kind or (field is not None and not field.nullable):
            raise _NotUnrolled
        null = kind.index("null")
        source.add(
            depth, "n = d[p]; p += 1", f"if n == {null * 2}: {target} = None", f"elif n == {2 - null * 2}:"
        )
        _read(source, kind[1 - null], field, target, depth + 1, named, level + 1)
        source.add(depth, "else: raise ValueError('no such branch')")
        return
    if isinstance(kind, str) and kind in named:
        kind = named[kind]
    base = kind["type"] if isinstance(kind, dict) else kind
    if isinstance(base, dict | list):
        _read(source, base, field, target, depth, named, level)
        return
    logical = kind.get("logicalType") if isinstance(kind, dict) else None
    if field is not None and not _fits(base, logical, field):
        raise _NotUnrolled
    if base in ("string", "bytes"):
        source.add(depth, "n = d[p]; p += 1", "if n > 127: n, p = more(d, p, n)")
        source.add(depth, "if n & 1: raise ValueError('a negative length')", "e = p + (n >> 1)")
        source.add(
            depth, f"{target} = d[p:e].decode()" if base == "string" else f"{target} = d[p:e]", "p = e"
        )
    elif base in ("int", "long"):
        _number(source, target, depth)
        if field is not None and field.kind == "time":
            source.add(depth, f"{target} = from_millis({target})")
        elif field is not None and field.kind in ("float", "double"):
            source.add(depth, f"{target} = float({target})")
    elif base == "float":
        source.add(depth, f"{target}, = unpack_f(d, p)", "p += 4")
    elif base == "double":
        source.add(depth, f"{target}, = unpack_d(d, p)", "p += 8")
    elif base == "boolean":
        source.add(
            depth, "n = d[p]; p += 1", "if n > 1: raise ValueError('no boolean')", f"{target} = n == 1"
        )
    elif base == "record":
        _read_record(source, kind, field.struct if field else None, target, depth, named, level)
    elif base == "array":
        _read_many(source, kind["items"], field, target, depth, named, level, keyed=False)
    elif base == "map":
        _read_many(source, kind["values"], field, target, depth, named, level, keyed=True)
    else:
        raise _NotUnrolled


def _read_many(
    source: _Source,
    kind: Any,
    field: FieldSpec | None,
    target: str,
    depth: int,
    named: dict[str, Any],
    level: int,
    *,
    keyed: bool,
) -> None:
    if level > _MAX_DEPTH:
        raise _NotUnrolled
    count, each, key = source.name(), source.name(), source.name()
    source.add(depth, f"{target} = {'{}' if keyed else '[]'}", "while True:")
    _number(source, count, depth + 1)
    source.add(depth + 1, f"if {count} == 0: break", f"if {count} < 0:", f"    {count} = -{count}")
    _number(source, "skipped", depth + 2)
    source.add(depth + 1, f"for _ in range({count}):")
    if keyed:
        _read(source, "string", None, key, depth + 2, named, level + 1)
    _read(source, kind, field.item if field else None, each, depth + 2, named, level + 1)
    source.add(depth + 2, f"{target}[{key}] = {each}" if keyed else f"{target}.append({each})")


def _fits(base: str, logical: str | None, field: FieldSpec) -> bool:
    wanted = {"time": "long", "struct": "record"}.get(field.kind, field.kind)
    if field.kind == "time" or logical is not None:
        return base == "long" and logical == "timestamp-millis" and field.kind == "time"
    if base in ("string", "bytes"):
        return base == wanted
    return base == wanted or wanted in WIDENS.get(base, ())
