"""The rows of a reference table, from what its compacted topic was told."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from core.errors import DeclarationError, TooLarge
from features.lookups import Lookup
from schemas.codec import arrow_schema
from schemas.keys import key_of

Change = tuple[str, Mapping[str, Any] | None]
"""The Kafka key of a message, and its values by field; None deletes the row of that key."""


def current(lookup: Lookup, changes: Iterable[Change]) -> pa.Table:
    """The table after these changes, in the order of the topic: one row per (tenant, entity), the newest, in
    order of their keys, with the columns of the lookup's record. What `history.compute` takes.

    Raises TooLarge as soon as there are more than `lookup.most_rows` rows: a stream would stop there too.
    """
    spec = lookup.record.spec()
    if spec.entity is None:
        raise DeclarationError(f"{spec.full_name} names no entity", where=lookup.where)
    rows: dict[str, Mapping[str, Any]] = {}
    for key, values in changes:
        if values is None:
            rows.pop(key, None)
            continue
        rows[key_of(values["tenant"], str(values[spec.entity]))] = values
        if len(rows) > lookup.most_rows:
            raise TooLarge(
                f"more than {lookup.most_rows} rows",
                where=lookup.where,
                mend="give the lookup a higher most_rows, or the table less to hold",
            )
    return pa.Table.from_pylist([dict(rows[key]) for key in sorted(rows)], schema=arrow_schema(spec))
