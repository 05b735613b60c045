"""Card payments for benchmarks: the real ones where they can be had, else the generator's."""

import pyarrow as pa
import pyarrow.parquet

from core.errors import Unavailable
from jobs.sources import card_fraud, generated
from schemas.catalog.transactions import Transaction
from schemas.codec import arrow_schema


def payments(count: int) -> tuple[pa.RecordBatch, str]:
    """The last `count` payments of the data as columns of `Transaction`, and whether real or generated."""
    try:
        table = pyarrow.parquet.read_table(card_fraud.fetch())
        origin = "real (IEEE-CIS)"
    except Unavailable as error:
        table = generated.generate(count)
        origin = f"generated ({error.what})"
    columns = arrow_schema(Transaction.spec())
    last = table.slice(max(0, table.num_rows - count)).select(columns.names)
    return last.cast(columns).combine_chunks().to_batches()[0], origin
