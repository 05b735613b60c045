"""Purchases and the merchants' reference table, from shopping baskets (`jobs.sources.baskets`).

A purchase is a basket: the store is the merchant, the household the customer. The data says nothing of where
a store is or how large; both are made by rules that anyone can recompute:

- region: the store's number modulo 8 picks one of `REGIONS`;
- size: by the store's sales in the first 90 days, so that nothing later speaks through it. Below the third
  quartile of the stores that sold anything then, or without sales then: small; from it up to the ninth
  decile: medium; from that on: large.
"""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InvalidInput
from schemas.catalog.purchases import Merchant, Purchase
from schemas.codec import arrow_schema

TENANT = "demo"
REGIONS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
SIZED_BY = timedelta(days=90)
MEDIUM_FROM, LARGE_FROM = 0.75, 0.9


def purchases(baskets: pa.Table, *, tenant: str = TENANT) -> pa.Table:
    """One purchase a basket, in the order of the baskets; the columns of `Purchase`.

    merchant_id is `m<store>`, customer_id `h<household>`, id the basket's number.
    """
    columns = {
        "tenant": constant(tenant, baskets.num_rows),
        "id": baskets["basket_id"].cast(pa.string()),
        "merchant_id": numbered("m", baskets["store_id"]),
        "customer_id": numbered("h", baskets["household_id"]),
        "occurred_at": baskets["occurred_at"],
        "amount_cents": baskets["amount_cents"],
        "items": baskets["items"],
    }
    return pa.table(columns, schema=arrow_schema(Purchase.spec()))


def merchants(baskets: pa.Table, *, tenant: str = TENANT) -> pa.Table:
    """One row per store, ordered by its number; the columns of `Merchant`.

    id equals merchant_id; changed_at is the end of the 90 days that the sizes come from. Raises InvalidInput
    when there are no baskets.
    """
    if not baskets.num_rows:
        raise InvalidInput("no baskets to take merchants from")
    known_at = pc.add(pc.min(baskets["occurred_at"]), pa.scalar(SIZED_BY, pa.duration("ms")))
    early = baskets.filter(pc.less(baskets["occurred_at"], known_at))
    sold = early.group_by("store_id").aggregate([("amount_cents", "sum")])
    sales = sold["amount_cents_sum"].to_numpy()
    medium, large = np.quantile(sales, [MEDIUM_FROM, LARGE_FROM])
    size_of = dict(
        zip(
            sold["store_id"].to_pylist(),
            np.where(sales >= large, "large", np.where(sales >= medium, "medium", "small")).tolist(),
            strict=True,
        )
    )
    stores = pc.unique(baskets["store_id"]).sort()
    names = numbered("m", stores)
    columns = {
        "tenant": constant(tenant, len(stores)),
        "id": names,
        "merchant_id": names,
        "region": regions(stores),
        "size": pa.array([size_of.get(store, "small") for store in stores.to_pylist()], pa.string()),
        "changed_at": pa.nulls(len(stores), known_at.type).fill_null(known_at),
    }
    return pa.table(columns, schema=arrow_schema(Merchant.spec()))


def regions(stores: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The region of each store (int64)."""
    return pa.array(REGIONS).take(pa.array(stores.to_numpy() % len(REGIONS)))


def numbered(prefix: str, numbers: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Names made of a prefix and a number."""
    return pc.binary_join_element_wise(prefix, numbers.cast(pa.string()), "")


def constant(text: str, rows: int) -> pa.Array:
    """A column with the same text in every row."""
    return pa.nulls(rows, pa.string()).fill_null(text)
