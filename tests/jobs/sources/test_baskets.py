"""Baskets: the data's lines added up, and a generator of the same form."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.errors import InvalidInput
from core.settings import settings
from jobs.sources.baskets import ROWS, baskets, convert
from jobs.sources.generated_baskets import ROWS_PER_DAY, SCHEMA, generate

AT = datetime(2017, 1, 1, 12, tzinfo=UTC)


def line(basket: int, product: int, quantity: int, dollars: float, minute: int = 0) -> dict[str, object]:
    return {
        "household_id": basket * 10, "store_id": basket * 100, "basket_id": basket, "product_id": product,
        "quantity": quantity, "sales_value": dollars,
        "transaction_timestamp": AT.replace(tzinfo=None) + timedelta(minutes=minute),
    }  # fmt: skip


def test_lines_are_added_up_by_basket_in_time_order() -> None:
    lines = pa.Table.from_pylist(
        [
            line(2, 5, 1, 0.1, minute=1), line(2, 6, 2, 0.2, minute=1), line(2, 5, 3, 1.005, minute=1),
            line(3, 7, 9_860, 21.5), line(3, 8, 0, 0.0), line(1, 9, 100, 3.0, minute=1),
        ]
    )  # fmt: skip
    table = convert(lines)
    assert table.schema == SCHEMA
    assert table.to_pylist() == [
        {"basket_id": 3, "household_id": 30, "store_id": 300, "occurred_at": AT, "amount_cents": 2150,
         "items": 1, "products": 2, "returned": True},
        {"basket_id": 1, "household_id": 10, "store_id": 100, "occurred_at": AT + timedelta(minutes=1),
         "amount_cents": 300, "items": 100, "products": 1, "returned": False},
        {"basket_id": 2, "household_id": 20, "store_id": 200, "occurred_at": AT + timedelta(minutes=1),
         "amount_cents": 130, "items": 6, "products": 2, "returned": False},
    ]  # fmt: skip


def test_the_generator_is_determined_by_its_seed_and_of_the_same_form() -> None:
    table = generate(5_000, seed=3)
    assert table.schema == SCHEMA
    assert generate(5_000, seed=3).equals(table)
    assert not generate(5_000, seed=4).equals(table)
    assert all(column.null_count == 0 for column in table.columns)
    assert pc.count_distinct(table["basket_id"]).as_py() == 5_000
    times = table["occurred_at"].cast(pa.int64()).to_numpy()
    assert (np.diff(times) >= 0).all()
    assert times[-1] - times[0] == pytest.approx(5_000 / ROWS_PER_DAY * 86_400_000, rel=0.1)
    assert (table["items"].to_numpy() >= table["products"].to_numpy()).all()
    hours = pc.hour(table["occurred_at"]).to_numpy()
    assert ((hours >= 17) & (hours <= 21)).sum() > 5 * ((hours >= 2) & (hours <= 6)).sum()


@pytest.mark.parametrize("rows", [0, 5_000_001])
def test_a_number_of_rows_out_of_bounds_is_refused(rows: int) -> None:
    with pytest.raises(InvalidInput):
        generate(rows)


def test_the_real_data_is_what_it_is_said_to_be() -> None:
    """Only where it has been downloaded: no test downloads data."""
    if not list((settings().cache / "data").glob("baskets-*.parquet")):
        pytest.skip("NOT TESTED: the basket data has not been downloaded")
    table, source = baskets()
    assert source.licence == "CC0-1.0"
    assert table.schema == SCHEMA
    assert table.num_rows == ROWS == pc.count_distinct(table["basket_id"]).as_py()
    assert pc.count_distinct(table["store_id"]).as_py() == 457
    assert pc.count_distinct(table["household_id"]).as_py() == 2_469
    assert pc.sum(table["returned"]).as_py() == 7_553
    assert pc.min(table["amount_cents"]).as_py() == 0
    assert (np.diff(table["occurred_at"].cast(pa.int64()).to_numpy()) >= 0).all()
