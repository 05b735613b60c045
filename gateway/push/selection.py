"""Which messages of a channel a subscription is given, and what the channel is called."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import Rejected
from gateway.push.feed import Feed
from gateway.push.frames import Scalar, Subscribe, Unsubscribe
from gateway.push.ring import Entry
from schemas.record import Kind

MOST_FIELDS = 8
MOST_VALUES = 64
_COMPARED: Mapping[Kind, tuple[type, ...]] = {
    "string": (str,),
    "int": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
}


@dataclass(frozen=True, slots=True)
class Selection:
    """All messages, where nothing is said. group: of this pipeline, or source. entity: about this one.
    fields: those of the record that must have one of the values."""

    group: str | None = None
    entity: str | None = None
    fields: tuple[tuple[str, frozenset[Scalar]], ...] = ()

    def takes(self, entry: Entry, feed: Feed) -> bool:
        """Whether a message is given."""
        if self is EVERYTHING:
            return True
        if self.group is not None and entry.group != self.group:
            return False
        if self.entity is not None and entry.entity != self.entity:
            return False
        if not self.fields:
            return True
        record = feed.record(entry)
        return all(getattr(record, name) in values for name, values in self.fields)


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client called a channel: `label` names it in frames, `feed` is where it comes from."""

    label: str
    feed: str
    group: str | None
    entity: str | None


def asked_of(frame: Subscribe | Unsubscribe) -> Asked:
    """The channel that a frame means, which need not exist. Raises Rejected where a part of it is missing.

    `entity` are the results of a pipeline about one entity; alerts are one channel, filtered by source;
    results are one channel per pipeline.
    """
    label = ":".join(part for part in (frame.channel, frame.pipeline, frame.entity) if part is not None)
    if frame.channel == "results":
        return Asked(label, f"results:{frame.pipeline}" if frame.pipeline else "results", None, frame.entity)
    if frame.channel == "entity":
        parts = {"/pipeline": frame.pipeline, "/entity": frame.entity}
        missing = {pointer: "is missing" for pointer, given in parts.items() if not given}
        if missing:
            raise Rejected(
                "the channel `entity` is of one entity and one pipeline",
                fields=missing,
                code="invalid_channel",
            )
        return Asked(label, f"results:{frame.pipeline}", None, frame.entity)
    return Asked(label, frame.channel, frame.pipeline, frame.entity)


def selection_of(asked: Asked, given: Mapping[str, Scalar | list[Scalar]], feed: Feed) -> Selection:
    """What is selected from a feed. Raises Rejected with every field that cannot be filtered by."""
    wrong: dict[str, str] = {}
    fields = []
    kinds = {field.name: field for field in feed.spec.fields}
    if len(given) > MOST_FIELDS:
        raise Rejected(
            "too long a filter", fields={"/filter": f"at most {MOST_FIELDS} fields"}, code="invalid_filter"
        )
    for name, wanted in given.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        field = kinds.get(name)
        pointer = f"/filter/{name[:64]}"
        if field is None:
            wrong[pointer] = "the data has no such field"
        elif field.kind not in _COMPARED:
            wrong[pointer] = "cannot be filtered by"
        elif not 0 < len(values) <= MOST_VALUES:
            wrong[pointer] = f"1 to {MOST_VALUES} values"
        elif not all(_fits(value, field.kind, nullable=field.nullable) for value in values):
            wrong[pointer] = f"is compared with a {field.kind}"
        else:
            fields.append((name, frozenset(values)))
    if wrong:
        raise Rejected("the filter is not in order", fields=wrong, code="invalid_filter")
    selection = Selection(asked.group, asked.entity, tuple(fields))
    return EVERYTHING if selection == EVERYTHING else selection


def _fits(value: Scalar, kind: Kind, *, nullable: bool) -> bool:
    if value is None:
        return nullable
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _COMPARED[kind])
