"""Lookup joins: columns of a reference table, beside the fields of the record.

    Lookup("merchant", Merchant, on={"merchant_id": "id"})

gives `merchant.category`, `merchant.country` and so on, to filters, aggregates and group keys. It is a left
join within the tenant: an event without its reference row keeps its place, with nulls. The reference has at
most one row per (tenant, key) and no time of its own: what is computed uses the rows that are in it then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.record import Record


@dataclass(frozen=True)
class Lookup:
    """A reference table by name. `record` declares its columns; `on`: field of the event -> column of the
    reference that it equals. Its columns are written `name.column`."""

    name: str
    record: type[Record]
    on: Mapping[str, str] = field(hash=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, as a view writes them."""
        return tuple(f"{self.name}.{column}" for column in self.record.spec().names)
