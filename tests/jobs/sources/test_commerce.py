"""Purchases and merchants: one purchase a basket, and reference data by the rules that are written down."""

import math
from collections import defaultdict
from datetime import timedelta

import msgspec
import pyarrow as pa
import pytest

from core.errors import InvalidInput
from jobs.sources.commerce import REGIONS, merchants, purchases
from jobs.sources.generated_baskets import generate
from schemas.catalog.purchases import Merchant, Purchase
from schemas.codec import arrow_schema

BASKETS = generate(60_000, seed=1)


def test_a_purchase_is_a_basket() -> None:
    table = purchases(BASKETS, tenant="acme")
    assert table.schema == arrow_schema(Purchase.spec())
    assert table.num_rows == BASKETS.num_rows
    for row, basket in zip(table.slice(0, 500).to_pylist(), BASKETS.slice(0, 500).to_pylist(), strict=True):
        found = msgspec.convert(row, Purchase)
        assert (found.tenant, found.id) == ("acme", str(basket["basket_id"]))
        assert (found.merchant_id, found.customer_id) == (
            f"m{basket['store_id']}",
            f"h{basket['household_id']}",
        )
        assert (found.occurred_at, found.amount_cents, found.items) == (
            basket["occurred_at"],
            basket["amount_cents"],
            basket["items"],
        )


def test_merchants_follow_the_rules() -> None:
    table = merchants(BASKETS)
    assert table.schema == arrow_schema(Merchant.spec())
    rows = [msgspec.convert(row, Merchant) for row in table.to_pylist()]
    assert {row.merchant_id for row in rows} == set(purchases(BASKETS)["merchant_id"].to_pylist())
    first = BASKETS["occurred_at"][0].as_py()
    sales: dict[str, int] = defaultdict(int)
    for basket in BASKETS.select(["store_id", "occurred_at", "amount_cents"]).to_pylist():
        if basket["occurred_at"] < first + timedelta(days=90):
            sales[f"m{basket['store_id']}"] += basket["amount_cents"]
    ordered = sorted(sales.values())

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    for row in rows:
        assert row.region == REGIONS[int(row.merchant_id[1:]) % 8]
        sold = sales.get(row.merchant_id, 0)
        expected = "large" if sold >= quantile(0.9) else "medium" if sold >= quantile(0.75) else "small"
        assert row.size == expected, row
        assert row.changed_at == first + timedelta(days=90)
    assert len({row.size for row in rows}) == 3


def test_what_happens_after_the_first_90_days_changes_no_size() -> None:
    first = BASKETS["occurred_at"][0].as_py()
    late = [at >= first + timedelta(days=90) for at in BASKETS["occurred_at"].to_pylist()]
    assert any(late)
    cents = [
        0 if after else value for after, value in zip(late, BASKETS["amount_cents"].to_pylist(), strict=True)
    ]
    field = BASKETS.schema.get_field_index("amount_cents")
    changed = BASKETS.set_column(field, BASKETS.schema.field(field), pa.array(cents, pa.int64()))
    assert merchants(changed).equals(merchants(BASKETS))


def test_without_baskets_there_are_no_merchants() -> None:
    with pytest.raises(InvalidInput):
        merchants(BASKETS.slice(0, 0))
