"""Lookup joins: columns of a reference table, beside the fields of the record.

    Lookup("merchant", Merchant, on={"merchant_id": "merchant_id"}, topic=MERCHANTS)

gives `merchant.region`, `merchant.size` and so on, to filters, aggregates and group keys. It is a left
join within the tenant: an event without its reference row keeps its place, with nulls. The reference has at
most one row per (tenant, key) and no time of its own: what is computed uses the rows that are in it then.

For a stream that is when the event comes by: a row that changes counts for the events after it, and a window
has events from before and after. History uses the table as it is, so the two agree on a table at rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.record import Record
from schemas.topic import Topic

MOST_ROWS = 100_000


@dataclass(frozen=True)
class Lookup:
    """A reference table by name. `record` declares its columns; `on`: field of the event -> column of the
    reference that it equals. Its columns are written `name.column`.

    topic: the compacted topic that holds it, for streams: the newest record per (tenant, entity) is the row.
        A stream finds it by the entity of the record and by nothing else.
    most_rows: more than so many rows stop a stream, which holds the table in memory.
    """

    name: str
    record: type[Record]
    on: Mapping[str, str] = field(hash=False)
    topic: Topic | None = None
    most_rows: int = MOST_ROWS

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, as a view writes them."""
        return tuple(f"{self.name}.{column}" for column in self.record.spec().names)

    @property
    def where(self) -> str:
        return f"lookup {self.name} of {self.record.__name__}"
