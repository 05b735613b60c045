"""Schema evolution, judged before the registry does: `BACKWARD_TRANSITIVE`, field by field.

Backward means that a reader with the new schema understands everything written with an old one (Avro 1.11,
"Schema Resolution"). Transitive means every old one, not only the last. So: a new field needs a default; a
field may go; a type may widen (int -> long -> float -> double, string <-> bytes); null may be added.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import IncompatibleSchema

WIDENS: Mapping[str, frozenset[str]] = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}


@dataclass(frozen=True)
class Change:
    """One difference between two schemas. `rule` is the rule that it breaks, None when it may be made."""

    path: str
    what: Literal["added", "removed", "changed"]
    old: str | None
    new: str | None
    rule: str | None = None

    def __str__(self) -> str:
        sign = {"added": "+", "removed": "-", "changed": "~"}[self.what]
        shown = {"added": self.new, "removed": self.old, "changed": f"{self.old} -> {self.new}"}[self.what]
        return f"  {sign} {self.path}: {shown}" + (f"   BREAKS: {self.rule}" if self.rule else "")


def diff(old: Any, new: Any) -> list[Change]:
    """Every difference from `old` (the writer's) to `new` (the reader's), nested records included.

    Takes parsed schemas or their text. Documentation is no difference.
    """
    before, after = _parsed(old), _parsed(new)
    names_before, names_after = _named(before), _named(after)
    changes: list[Change] = []
    _compare(before, after, "", names_before, names_after, changes, frozenset())
    return changes


def check_backward(olds: Sequence[Any], new: Any, *, where: str | None = None) -> list[Change]:
    """Check the new schema against every old one; the changes against the newest old one.

    `olds` is oldest first. Raises IncompatibleSchema with the diff and the rules broken.
    """
    broken = [
        (number, change) for number, old in enumerate(olds, 1) for change in diff(old, new) if change.rule
    ]
    if broken:
        raise IncompatibleSchema(
            "the schema breaks BACKWARD_TRANSITIVE:\n" + explain(olds, new),
            where=where,
            mend="give new fields a default, keep the types of old ones, or start a new topic version",
        )
    return diff(olds[-1], new) if olds else []


def explain(olds: Sequence[Any], new: Any) -> str:
    """The diff as lines, one per change, against the newest version; older versions where they break."""
    lines: list[str] = []
    for number, old in reversed(list(enumerate(olds, 1))):
        changes = diff(old, new)
        shown = changes if number == len(olds) else [change for change in changes if change.rule]
        if shown:
            lines.append(f"against version {number}:")
            lines.extend(str(change) for change in shown)
    return "\n".join(lines)


def describe(kind: Any) -> str:
    """A type as one reads it: `long (timestamp-millis)`, `string or null`, `array of Reason`."""
    if isinstance(kind, list):
        parts = [describe(branch) for branch in kind if branch != "null"]
        return " or ".join([*parts, "null"] if "null" in kind else parts)
    if not isinstance(kind, dict):
        return str(kind)
    base = kind.get("type")
    if base == "array":
        return f"array of {describe(kind['items'])}"
    if base == "map":
        return f"map of {describe(kind['values'])}"
    if base in ("record", "enum", "fixed"):
        return f"{base} {kind.get('name', '')}"
    logical = kind.get("logicalType")
    return f"{describe(base)} ({logical})" if logical else describe(base)


def _compare(
    old: Any,
    new: Any,
    path: str,
    names_old: Mapping[str, Any],
    names_new: Mapping[str, Any],
    out: list[Change],
    seen: frozenset[tuple[str, str]],
) -> None:
    old, new = _resolved(old, names_old), _resolved(new, names_new)
    branches_old, branches_new = _branches(old), _branches(new)
    if branches_old is not None or branches_new is not None:
        _compare_unions(old, new, path, names_old, names_new, out, seen)
        return
    base_old, base_new = _base(old), _base(new)
    if base_old != base_new:
        if _logical(old) is None and _logical(new) is None and base_new in WIDENS.get(base_old, ()):
            out.append(Change(path, "changed", describe(old), describe(new)))
        else:
            out.append(Change(path, "changed", describe(old), describe(new), "a type may only widen"))
    elif _logical(old) != _logical(new):
        rule = "the meaning of old values may not change"
        out.append(Change(path, "changed", describe(old), describe(new), rule))
    elif base_old == "record":
        pair = (str(old.get("name")), str(new.get("name")))
        if pair not in seen:
            _compare_records(old, new, path, names_old, names_new, out, seen | {pair})
    elif base_old == "array":
        _compare(old["items"], new["items"], f"{path}[]", names_old, names_new, out, seen)
    elif base_old == "map":
        _compare(old["values"], new["values"], f"{path}{{}}", names_old, names_new, out, seen)
    elif base_old == "enum":
        gone = [symbol for symbol in old["symbols"] if symbol not in new["symbols"]]
        more = [symbol for symbol in new["symbols"] if symbol not in old["symbols"]]
        if gone or more:
            lost = f"symbols {', '.join(gone)} are gone" if gone and "default" not in new else None
            out.append(Change(path, "changed", "|".join(old["symbols"]), "|".join(new["symbols"]), lost))
    elif base_old == "fixed" and old.get("size") != new.get("size"):
        out.append(Change(path, "changed", describe(old), describe(new), "a fixed size may not change"))


def _compare_records(
    old: Any,
    new: Any,
    path: str,
    names_old: Mapping[str, Any],
    names_new: Mapping[str, Any],
    out: list[Change],
    seen: frozenset[tuple[str, str]],
) -> None:
    fields_old = {field["name"]: field for field in old.get("fields", [])}
    fields_new = {field["name"]: field for field in new.get("fields", [])}
    for name, field in fields_old.items():
        if name not in fields_new and not _renamed(name, fields_new.values()):
            out.append(Change(_below(path, name), "removed", describe(field["type"]), None))
    for name, field in fields_new.items():
        former = fields_old.get(name) or next(
            (fields_old[alias] for alias in field.get("aliases", ()) if alias in fields_old), None
        )
        at = _below(path, name)
        if former is None:
            rule = None if "default" in field else "a new field needs a default, old records do not have it"
            out.append(Change(at, "added", None, describe(field["type"]), rule))
            continue
        _compare(former["type"], field["type"], at, names_old, names_new, out, seen)
        if former.get("default", ...) != field.get("default", ...):
            shown = [
                f"default {json.dumps(f['default'])}" if "default" in f else "no default"
                for f in (former, field)
            ]
            out.append(Change(at, "changed", shown[0], shown[1]))


def _compare_unions(
    old: Any,
    new: Any,
    path: str,
    names_old: Mapping[str, Any],
    names_new: Mapping[str, Any],
    out: list[Change],
    seen: frozenset[tuple[str, str]],
) -> None:
    readers = _branches(new) or [new]
    writers = _branches(old) or [old]
    lost: list[str] = []
    for branch in writers:
        written = _resolved(branch, names_old)
        fitting = [
            reader
            for reader in (_resolved(candidate, names_new) for candidate in readers)
            if _fits(written, reader, names_old, names_new, seen)
        ]
        same = [
            reader for reader in (_resolved(c, names_new) for c in readers) if _base(reader) == _base(written)
        ]
        if not fitting and same:
            _compare(written, same[0], path, names_old, names_new, out, seen)
        elif not fitting:
            lost.append(describe(branch))
        elif _base(written) in ("record", "array", "map") and same:
            _compare(written, same[0], path, names_old, names_new, out, seen)
    if lost:
        rule = f"old values may be {' or '.join(lost)}"
        out.append(Change(path, "changed", describe(old), describe(new), rule))
    elif sorted(map(describe, writers)) != sorted(map(describe, readers)):
        out.append(Change(path, "changed", describe(old), describe(new)))


def _fits(
    old: Any,
    new: Any,
    names_old: Mapping[str, Any],
    names_new: Mapping[str, Any],
    seen: frozenset[tuple[str, str]],
) -> bool:
    found: list[Change] = []
    _compare(old, new, "", names_old, names_new, found, seen)
    return not any(change.rule for change in found)


def _parsed(schema: Any) -> Any:
    return (
        json.loads(schema) if isinstance(schema, str) and schema.lstrip()[:1] in ("{", "[", '"') else schema
    )


def _named(schema: Any) -> dict[str, Any]:
    """Every record, enum and fixed inside a schema, by its name and its full name."""
    found: dict[str, Any] = {}

    def visit(part: Any, namespace: str) -> None:
        if isinstance(part, list):
            for branch in part:
                visit(branch, namespace)
        elif isinstance(part, dict):
            below = part.get("namespace", namespace)
            if part.get("type") in ("record", "enum", "fixed"):
                name = str(part.get("name"))
                found[name] = part
                found[name if "." in name or not below else f"{below}.{name}"] = part
            for field in part.get("fields", ()):
                visit(field["type"], below)
            for key in ("type", "items", "values"):
                if isinstance(part.get(key), dict | list):
                    visit(part[key], below)

    visit(schema, "")
    return found


def _resolved(kind: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(kind, str):
        return names.get(kind, kind)
    if isinstance(kind, dict) and isinstance(kind.get("type"), dict | list):
        return _resolved(kind["type"], names)
    return kind


def _branches(kind: Any) -> list[Any] | None:
    return kind if isinstance(kind, list) else None


def _base(kind: Any) -> str:
    return str(kind["type"]) if isinstance(kind, dict) else str(kind)


def _logical(kind: Any) -> str | None:
    return kind.get("logicalType") if isinstance(kind, dict) else None


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _renamed(name: str, fields: Iterable[Mapping[str, Any]]) -> bool:
    return any(name in field.get("aliases", ()) for field in fields)
