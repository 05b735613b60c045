"""How much harm the data of a topic does in wrong hands: its class, and those of its record's fields.

card: Annotated[str, Meta(extra={"data_class": "restricted"})]
"""

from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

DATA_CLASSES = ("public", "internal", "confidential", "restricted")
"""From the least to the most."""
USUAL = "internal"
FIELD = "data_class"


def class_of(record: type[msgspec.Struct] | None, own: str = USUAL) -> str:
    """The highest of a topic's own class and those of the fields of its record."""
    found = [own]
    if record is not None:
        found += _fields(record)
    return max(found, key=DATA_CLASSES.index)


def _fields(record: type[msgspec.Struct]) -> list[str]:
    hints = get_type_hints(record, include_extras=True)
    return [
        meta.extra[FIELD]
        for field in msgspec.structs.fields(record)
        for meta in _metas(hints[field.name])
        if meta.extra and FIELD in meta.extra
    ]


def _metas(hint: Any) -> list[msgspec.Meta]:
    if get_origin(hint) is not Annotated:
        return []
    return [one for one in get_args(hint)[1:] if isinstance(one, msgspec.Meta)]
