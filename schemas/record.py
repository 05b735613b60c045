"""Records: the one definition of an event, as a frozen, typed class.

    @record(entity="card_id", time="occurred_at", namespace="millstream.fraud")
    class Payment(Record, frozen=True, kw_only=True):
        card_id: str
        occurred_at: datetime
        amount_cents: int

A record always has `tenant` and `id` (inherited), names its entity key and its event time, and compiles
to Avro (`schemas.avro`), to an Arrow schema (`schemas.codec`) and to Flink columns (`jobs.on_flink`).
JSON in and out is msgspec's: times are RFC 3339 strings, bytes base64.
"""

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from core.errors import DeclarationError, UnknownName
from core.structs import ready

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1, extra={"avro": "int"})]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1, extra={"avro": "long"})]
Float32 = Annotated[float, msgspec.Meta(extra={"avro": "float"})]

Kind = Literal[
    "string", "int", "long", "float", "double", "boolean", "bytes", "time", "array", "map", "struct"
]

_PRIMITIVES: dict[Any, Kind] = {
    str: "string",
    int: "long",
    float: "double",
    bool: "boolean",
    bytes: "bytes",
    datetime: "time",
}


@dataclass(frozen=True)
class FieldSpec:
    """One field. `kind` is its type without null; `item` the element of an array or map."""

    name: str
    kind: Kind
    nullable: bool = False
    doc: str = ""
    item: "FieldSpec | None" = None
    struct: "RecordSpec | None" = None
    has_default: bool = False
    default: Any = None


@dataclass(frozen=True)
class RecordSpec:
    """What a record class declares, free of the class: name, namespace, fields, entity key, event time."""

    name: str
    namespace: str
    fields: tuple[FieldSpec, ...]
    entity: str | None = None
    time: str | None = None
    doc: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.namespace}.{self.name}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    def field(self, name: str) -> FieldSpec:
        """The field of that name; raises UnknownName with the nearest one."""
        for field in self.fields:
            if field.name == name:
                return field
        raise UnknownName("field", name, self.names, where=f"record {self.full_name}")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every record: whose it is and which one it is."""

    tenant: str
    id: str

    __spec__: ClassVar[RecordSpec]

    @classmethod
    def spec(cls) -> RecordSpec:
        """The declaration; raises DeclarationError when `@record` is missing."""
        spec = cls.__dict__.get("__spec__")
        if spec is None:
            raise DeclarationError(
                f"{cls.__name__} is no record", where=cls.__module__, mend="decorate it with @record(...)"
            )
        return typing.cast(RecordSpec, spec)


R = TypeVar("R", bound=Record)


def record(*, entity: str, time: str, namespace: str) -> Callable[[type[R]], type[R]]:
    """Declare a record: its entity key field, its event time field, its Avro namespace."""

    def declare(cls: type[R]) -> type[R]:
        where = f"record {cls.__name__} in {cls.__module__}"
        spec = RecordSpec(
            name=cls.__name__,
            namespace=namespace,
            fields=_fields(cls, namespace, where),
            entity=entity,
            time=time,
            doc=(cls.__doc__ or "").strip().split("\n")[0],
        )
        spec.field(entity)
        if spec.field(time).kind != "time":
            raise DeclarationError(
                f"event time {time!r} is no datetime", where=where, mend="annotate it datetime"
            )
        cls.__spec__ = spec
        return ready(cls)

    return declare


def define(
    spec_name: str, base: type[Record], extra: Mapping[str, tuple[Any, Any]], *, doc: str
) -> type[Record]:
    """A record made of `base` and further fields (name -> (type, default)); used for enriched records."""
    of = base.spec()
    cls = msgspec.defstruct(
        spec_name,
        [(name, kind, default) for name, (kind, default) in extra.items()],
        bases=(base,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": doc, "__module__": base.__module__},
    )
    if of.entity is None or of.time is None:
        raise DeclarationError(
            f"{of.full_name} names no entity or no time", mend="decorate it with @record(...)"
        )
    return record(entity=of.entity, time=of.time, namespace=of.namespace)(typing.cast(type[Record], cls))


def _fields(cls: type[msgspec.Struct], namespace: str, where: str) -> tuple[FieldSpec, ...]:
    hints = get_type_hints(cls, include_extras=True)
    defaults = {field.name: field for field in msgspec.structs.fields(cls)}
    out = []
    for name in cls.__struct_fields__:
        given = defaults[name]
        has_default = given.default is not msgspec.NODEFAULT or given.default_factory is not msgspec.NODEFAULT
        default = given.default
        if has_default and default is msgspec.NODEFAULT:
            default = typing.cast(Callable[[], Any], given.default_factory)()
        spec = _field(name, hints[name], namespace, f"{where}, field {name}")
        out.append(_with(spec, has_default=has_default, default=default if has_default else None))
    return tuple(out)


def _with(spec: FieldSpec, **changes: Any) -> FieldSpec:
    from dataclasses import replace

    return replace(spec, **changes)


def _field(name: str, hint: Any, namespace: str, where: str) -> FieldSpec:
    doc, avro = "", None
    if get_origin(hint) is Annotated:
        hint, *metas = get_args(hint)
        for meta in metas:
            if isinstance(meta, msgspec.Meta):
                doc = meta.description or doc
                avro = (meta.extra or {}).get("avro", avro)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        if len(parts) != 1:
            raise DeclarationError(
                f"a union of {len(parts)} types", where=where, mend="use one type, or that type or None"
            )
        inner = _field(name, parts[0], namespace, where)
        return _with(inner, nullable=True, doc=doc or inner.doc)
    if origin is Literal:
        return FieldSpec(name, "string", doc=doc)
    if avro in ("int", "long", "float"):
        return FieldSpec(name, avro, doc=doc)
    if hint in _PRIMITIVES:
        return FieldSpec(name, _PRIMITIVES[hint], doc=doc)
    if origin in (list, tuple):
        item = _field("item", get_args(hint)[0], namespace, where)
        return FieldSpec(name, "array", doc=doc, item=item)
    if origin is dict:
        item = _field("value", get_args(hint)[1], namespace, where)
        return FieldSpec(name, "map", doc=doc, item=item)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        spec = RecordSpec(
            name=hint.__name__,
            namespace=namespace,
            fields=_fields(hint, namespace, where),
            doc=(hint.__doc__ or "").strip().split("\n")[0],
        )
        return FieldSpec(name, "struct", doc=doc, struct=spec)
    raise DeclarationError(
        f"type {hint!r} has no Avro form",
        where=where,
        mend="use str, int, Int32, float, Float32, bool, bytes, datetime, list, dict, a Struct, any or None",
    )
