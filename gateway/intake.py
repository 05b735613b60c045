"""One event at the door: JSON in, a record of the caller's tenant out, or every field that is wrong.

Two validators. The first is msgspec's decoder for the record's class, tightened to what Avro and the
stores can hold: it costs microseconds and stops at the first error. Only when it refuses, the second one
decodes field by field with the same types, so that both agree by construction, and names every offending
field as a JSON pointer.

The tenant comes from the credential: a `tenant` in the body must be absent or equal. An `id` may be given;
one is made where it is not.
"""

import re
import types
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from operator import attrgetter
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from core.clock import Clock, SystemClock
from core.errors import DeclarationError, Rejected
from core.ids import new_id
from gateway import strict_json
from schemas.record import Record

ID_SHAPE = re.compile(r"[A-Za-z0-9._:~@+=-]{1,128}", re.ASCII)
MAX_ENTITY = 512
MAX_ITEMS = 10_000
MOST_PROBLEMS = 100
_SUGGESTIONS = 4  # each takes 2 ms among 400 names
_LOW, _HIGH = msgspec.Meta(ge=-(2**63)), msgspec.Meta(le=2**63 - 1)
_FLOAT32_MAX = 3.4028234663852886e38
_FLOAT_LOW, _FLOAT_HIGH = msgspec.Meta(ge=-_FLOAT32_MAX), msgspec.Meta(le=_FLOAT32_MAX)
_ZONED = msgspec.Meta(tz=True)
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Intake:
    """The door of one pipeline. Thread-safe; `record` names the entity and the event time, `submission` is
    the record as clients may send it."""

    def __init__(
        self, record: type[Record], *, max_age: timedelta, max_ahead: timedelta, clock: Clock | None = None
    ) -> None:
        spec = record.spec()
        if spec.entity is None or spec.time is None:
            raise DeclarationError(f"{spec.full_name} names no entity or no event time")
        self.record = record
        self._entity, self._time = spec.entity, spec.time
        self._max_age, self._max_ahead = max_age, max_ahead
        self._clock = clock or SystemClock()
        declared = get_type_hints(record, include_extras=True)
        self._hints = {name: tighten(declared[name]) for name in record.__struct_fields__}
        self._required = tuple(name for name in _required(record) if name not in ("tenant", "id"))
        self.submission = self._submission()
        self._unsure = sum(
            field.default not in (msgspec.NODEFAULT, None, msgspec.UNSET)
            or field.default_factory is not msgspec.NODEFAULT
            for field in msgspec.structs.fields(self.submission)
        )
        self._ruled = ("tenant", "id", self._entity, self._time)
        self._ruled_of = attrgetter(*self._ruled)
        self._decode = msgspec.json.Decoder(self.submission).decode
        self._explainer = Explainer()

    def read(self, raw: bytes, tenant: str, *, otherwise: str | None = None) -> Record:
        """The record; `otherwise` is its id where the body gives none, else a new one is made.

        Raises Malformed when `raw` is no strict JSON, Rejected with every wrong field.
        """
        try:
            event: Any = self._decode(raw)
        except _DECODE_ERRORS as error:
            raise self._refusal(raw, tenant, str(error)) from None
        values = msgspec.structs.astuple(event)
        given = len(values) - values.count(None) - self._unsure  # at least so many, of different names
        if event.tenant is msgspec.UNSET:
            msgspec.structs.force_setattr(event, "tenant", tenant)
            given -= 1
        if event.id is msgspec.UNSET:
            msgspec.structs.force_setattr(event, "id", otherwise or new_id())
            given -= 1
        if not strict_json.keys_at_most(raw, given) and not strict_json.is_plainly_strict(raw):
            strict_json.check(raw)
        ruled = dict(zip(self._ruled, self._ruled_of(event), strict=True))
        if b"\\u0000" in raw or self._broken_rules(ruled, tenant):
            refusal = self._refusal(raw, tenant, "")
            if refusal.fields:
                raise refusal
        return cast(Record, event)

    def _refusal(self, raw: bytes, tenant: str, otherwise: str) -> Rejected:
        strict_json.check(raw)
        problems, values = self._explainer.fields(raw, self._hints, self._required)
        for pointer, reason in self._broken_rules(values, tenant).items():
            problems.setdefault(pointer, reason)
        if not problems and otherwise:
            problems[""] = otherwise
        count = len(problems)
        more = " or more" if count >= MOST_PROBLEMS else ""
        return Rejected(
            f"{count}{more} {'place is' if count == 1 else 'places are'} wrong in the event",
            fields=problems,
            where=f"record {self.record.__name__}",
        )

    def _broken_rules(self, given: Mapping[str, Any], tenant: str) -> dict[str, str]:
        """What types cannot say: whose it is, the shape of the id and the entity, the bounds of the time."""
        problems = {}
        if "tenant" in given and given["tenant"] != tenant:
            problems["/tenant"] = "the tenant comes from the credential; leave it out"
        if "id" in given and not ID_SHAPE.fullmatch(given["id"]):
            problems["/id"] = "1 to 128 letters, digits or any of . _ : ~ @ + = -"
        if self._entity in given and not 0 < len(str(given[self._entity])) <= MAX_ENTITY:
            problems[f"/{self._entity}"] = f"the entity key has 1 to {MAX_ENTITY} characters"
        at = given.get(self._time)
        if isinstance(at, datetime):
            now = self._clock.now()
            if at < now - self._max_age:
                problems[f"/{self._time}"] = f"older than the accepted {self._max_age} before now"
            elif at > now + self._max_ahead:
                problems[f"/{self._time}"] = f"further ahead than the accepted {self._max_ahead} after now"
        return problems

    def _submission(self) -> type[Record]:
        """The record as clients may send it: tightened types, tenant and id optional."""
        hints: dict[str, Any] = dict(self._hints)
        optional: dict[str, Any] = {}
        for name in ("tenant", "id"):
            hints[name] = Union[hints[name], msgspec.UnsetType]  # noqa: UP007
            optional[name] = msgspec.UNSET
        made = msgspec.defstruct(
            self.record.__name__,
            _redeclared(self.record, hints, optional),
            bases=(self.record,),
            frozen=True,
            kw_only=True,
            forbid_unknown_fields=True,
            namespace={"__spec__": self.record.spec(), "__module__": self.record.__module__},
        )
        return cast(type[Record], made)


class Explainer:
    """The complete validator: decodes part by part and collects every error with its JSON pointer."""

    def __init__(self) -> None:
        self._decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
        self._raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._raw_list = msgspec.json.Decoder(list[msgspec.Raw])

    def fields(
        self, raw: bytes, hints: Mapping[str, Any], required: Sequence[str], at: str = ""
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Pointer -> reason for what is wrong in an object, and the values of the fields that are right.
        Looks no further than to MOST_PROBLEMS."""
        problems: dict[str, str] = {}
        values: dict[str, Any] = {}
        try:
            parts = self._raw_object.decode(raw)
        except msgspec.MsgspecError as error:
            return {at: _reason(error)}, values
        for name in required:
            if name not in parts:
                problems[f"{at}/{_escape(name)}"] = "missing"
        unknown = 0
        for name, part in parts.items():
            if len(problems) >= MOST_PROBLEMS:
                break
            pointer = f"{at}/{_escape(name)}"
            if name in hints:
                found = self.value(bytes(part), hints[name], pointer)
                problems.update(found)
                if not found:
                    values[name] = self._decoder(hints[name]).decode(part)
                continue
            unknown += 1
            close = get_close_matches(name[:64], hints, n=1) if unknown <= _SUGGESTIONS else []
            problems[pointer] = f"unknown field; did you mean {close[0]!r}?" if close else "unknown field"
        return problems, values

    def value(self, raw: bytes, hint: Any, at: str) -> dict[str, str]:
        """Pointer -> reason for what is wrong in one value."""
        inner = _inner(hint)
        if inner is not hint and raw.strip() == b"null":
            return {}
        bare = get_args(inner)[0] if get_origin(inner) is Annotated else inner
        origin = get_origin(bare)
        try:
            if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
                hints = get_type_hints(bare, include_extras=True)
                problems, _ = self.fields(raw, hints, _required(bare), at)
            elif origin is list:
                parts = self._raw_list.decode(raw)
                problems = {at: f"more than {MAX_ITEMS} items"} if len(parts) > MAX_ITEMS else {}
                for index, part in enumerate(parts):
                    if at in problems or len(problems) >= MOST_PROBLEMS:
                        break
                    problems.update(self.value(bytes(part), get_args(bare)[0], f"{at}/{index}"))
            elif origin is dict:
                problems = {}
                for key, part in self._raw_object.decode(raw).items():
                    problems.update(self.value(bytes(part), get_args(bare)[1], f"{at}/{_escape(key)}"))
            else:
                decoded = self._decoder(hint).decode(raw)
                problems = {at: "the character U+0000 is not accepted"} if _has_nul(decoded) else {}
        except _DECODE_ERRORS as error:
            return {at: _reason(error)}
        return problems

    def _decoder(self, hint: Any) -> msgspec.json.Decoder[Any]:
        found = self._decoders.get(hint)
        if found is None:
            found = self._decoders[hint] = msgspec.json.Decoder(hint)
        return found


def tighten(hint: Any) -> Any:
    """The type with the bounds that Avro has and Python has not: 64-bit integers, 32-bit floats, zoned times;
    and lists of at most MAX_ITEMS, where they declare no length of their own.

    Structs inside are rebuilt with tightened fields.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *metas = get_args(hint)
        added = _missing_bounds(inner, [meta for meta in metas if isinstance(meta, msgspec.Meta)])
        if inner in (int, float, datetime):
            return Annotated[(inner, *metas, *added)]
        within = tighten(inner)
        sized = any(isinstance(meta, msgspec.Meta) and meta.max_length is not None for meta in metas)
        if sized and get_origin(within) is Annotated:
            within = get_args(within)[0]  # the bound that is declared stays
        return Annotated[(within, *metas)]
    if origin in (Union, types.UnionType):
        return Union[tuple(tighten(part) for part in get_args(hint))]  # noqa: UP007
    if origin is Literal:
        return hint
    if origin is dict:
        return dict[tuple(tighten(part) for part in get_args(hint))]  # type: ignore[misc]
    if origin is list:
        items: Any = list[tighten(get_args(hint)[0])]  # type: ignore[misc]
        return Annotated[items, msgspec.Meta(max_length=MAX_ITEMS)]
    if hint in (int, datetime):
        return Annotated[(hint, *_missing_bounds(hint, []))]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _tightened_struct(hint)
    return hint


def _missing_bounds(kind: Any, metas: list[msgspec.Meta]) -> list[msgspec.Meta]:
    """The bounds of a plain type that its declaration leaves open; msgspec takes each bound once."""
    single = any((meta.extra or {}).get("avro") == "float" for meta in metas)
    if kind is datetime:
        return [] if any(meta.tz is not None for meta in metas) else [_ZONED]
    if kind is int or (kind is float and single):
        low, high = (_LOW, _HIGH) if kind is int else (_FLOAT_LOW, _FLOAT_HIGH)
        below = [] if any(meta.ge is not None or meta.gt is not None for meta in metas) else [low]
        above = [] if any(meta.le is not None or meta.lt is not None for meta in metas) else [high]
        return below + above
    return []


def _tightened_struct(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    declared = get_type_hints(struct, include_extras=True)
    fields = _redeclared(struct, {name: tighten(hint) for name, hint in declared.items()}, {})
    return msgspec.defstruct(struct.__name__, fields, kw_only=True, frozen=True, forbid_unknown_fields=True)


def _redeclared(
    struct: type[msgspec.Struct], hints: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[Any]:
    """The fields of `struct` with other types, and with `defaults` where it had none."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(struct):
        default = defaults.get(field.name, field.default)
        if default is not msgspec.NODEFAULT:
            fields.append((field.name, hints[field.name], default))
        elif field.default_factory is not msgspec.NODEFAULT:
            made = msgspec.field(default_factory=cast(Any, field.default_factory))
            fields.append((field.name, hints[field.name], made))
        else:
            fields.append((field.name, hints[field.name]))
    return fields


def _required(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(struct) if field.required)


def _inner(hint: Any) -> Any:
    """The type without null, seen through annotations; `hint` itself when it has no null."""
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(bare) in (Union, types.UnionType):
        parts = [part for part in get_args(bare) if part is not type(None)]
        return parts[0] if len(parts) == 1 else hint
    return hint


def _reason(error: Exception) -> str:
    """msgspec's sentence without its path: we name the place by pointer."""
    text = re.sub(r" - at `[^`]*`$", "", str(error))
    return text[:1].lower() + text[1:300]


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _has_nul(value: Any) -> bool:
    return isinstance(value, str) and "\x00" in value
