"""The generator: the same every time, shaped like the record, with fraud that the view can see."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.errors import InvalidInput
from features.catalog.card_activity import CARD_ACTIVITY
from features.offline.history import compute
from jobs.sources.generated import FRAUD_SHARE, LABEL, generate
from schemas.catalog.transactions import Transaction
from schemas.codec import arrow_schema

ROWS = 6_000


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return generate(ROWS, seed=3)


def test_it_is_determined_by_its_seed(table: pa.Table) -> None:
    assert generate(ROWS, seed=3).equals(table)
    assert not generate(ROWS, seed=4).equals(table)


def test_the_columns_are_those_of_the_record_and_the_label(table: pa.Table) -> None:
    assert table.schema.names[:-1] == arrow_schema(Transaction.spec()).names
    assert table.schema.names[-1] == LABEL
    assert table.select(table.schema.names[:-1]).schema == arrow_schema(Transaction.spec())
    for field in Transaction.spec().fields:
        assert field.nullable or table.column(field.name).null_count == 0, field.name


def test_every_row_is_a_valid_record(table: pa.Table) -> None:
    import msgspec

    for row in table.drop_columns([LABEL]).slice(0, 200).to_pylist():
        sent = msgspec.json.encode({name: value for name, value in row.items() if value is not None})
        assert msgspec.json.decode(sent, type=Transaction).card_id == row["card_id"]


def test_rows_are_in_time_order_with_ids_of_their_own(table: pa.Table) -> None:
    times = table.column("occurred_at").cast(pa.int64()).to_numpy()
    assert (np.diff(times) >= 0).all()
    assert pc.count_distinct(table.column("id")).as_py() == ROWS
    first, last = table.column("occurred_at")[0].as_py(), table.column("occurred_at")[-1].as_py()
    assert timedelta(days=1.5) < last - first < timedelta(days=2.5)


def test_the_start_is_given() -> None:
    start = datetime(2031, 5, 1, tzinfo=UTC)
    first = generate(500, starts_at=start).column("occurred_at")[0].as_py()
    assert start <= first < start + timedelta(hours=1)


def test_fraud_is_rare_and_shows_in_the_view(table: pa.Table) -> None:
    fraud = table.column(LABEL).to_numpy() == 1
    assert fraud.mean() == pytest.approx(FRAUD_SHARE, abs=0.005)
    in_the_hour = compute(CARD_ACTIVITY, table).column("count_1h").to_numpy()
    assert in_the_hour[fraud].mean() > 1.5 * in_the_hour[~fraud].mean()


@pytest.mark.parametrize("rows", [0, 99, 5_000_001])
def test_a_number_of_rows_out_of_bounds_is_refused(rows: int) -> None:
    with pytest.raises(InvalidInput):
        generate(rows)
