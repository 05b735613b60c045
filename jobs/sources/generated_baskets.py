"""Shopping baskets out of nothing, of the same form as the real ones; needs no download.

Households differ in how often they shop and have a store that they prefer, days have an evening, weeks a
weekend: what features of demand are about. Equal arguments give equal tables.
"""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from core.clock import to_millis
from core.errors import InvalidInput
from models.manifest import DataSource

SOURCE = DataSource(name="generated baskets", licence="Apache-2.0, made by this program")
SCHEMA = pa.schema(
    [
        pa.field("basket_id", pa.int64(), nullable=False),
        pa.field("household_id", pa.int64(), nullable=False),
        pa.field("store_id", pa.int64(), nullable=False),
        pa.field("occurred_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("amount_cents", pa.int64(), nullable=False),
        pa.field("items", pa.int64(), nullable=False),
        pa.field("products", pa.int64(), nullable=False),
        pa.field("returned", pa.bool_(), nullable=False),
    ]
)
STARTS_AT = datetime(2026, 1, 1, tzinfo=UTC)
ROWS_PER_DAY = 427  # the pace of the real data
MAX_ROWS = 5_000_000

_HOUSEHOLDS = 2_400
_STORES = 120
_FIRST_BASKET = 1_000_000
_LOYALTY = 0.7
_RETURNED = 0.05
_DAY_MS = 86_400_000
_HOURS = np.array([8, 5, 3, 2, 1, 1, 2, 4, 6, 7, 8, 9, 10, 9, 8, 9, 10, 12, 14, 15, 15, 14, 12, 10.0])
_WEEKDAYS = np.array([9, 9, 9, 10, 12, 14, 13.0])


def generate(rows: int, *, seed: int = 0, starts_at: datetime = STARTS_AT) -> pa.Table:
    """`rows` baskets in time order, about 427 a day from `starts_at`; columns as of `baskets.baskets`.

    Raises InvalidInput outside 1 to 5,000,000 rows.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise InvalidInput(f"{rows} baskets", mend=f"ask for 1 to {MAX_ROWS}")
    random = np.random.default_rng(seed)
    days = np.arange(-(-rows // ROWS_PER_DAY))
    weights = _WEEKDAYS[days % 7]
    day = random.choice(days, rows, p=weights / weights.sum())
    hour = random.choice(24, rows, p=_HOURS / _HOURS.sum())
    at = np.sort(day * _DAY_MS + hour * 3_600_000 + random.integers(0, 3_600_000, rows))
    household = (_HOUSEHOLDS * random.random(rows) ** 2).astype(np.int64)
    elsewhere = (_STORES * random.random(rows) ** 3).astype(np.int64)
    store = np.where(random.random(rows) < _LOYALTY, household * 7 % _STORES, elsewhere)
    products = 1 + random.geometric(0.12, rows)
    items = products + random.poisson(0.4 * products)
    cents = np.round(items * 100 * random.lognormal(0.9, 0.5, rows)).astype(np.int64)
    return pa.table(
        {
            "basket_id": _FIRST_BASKET + np.arange(rows),
            "household_id": 1 + household,
            "store_id": 300 + store,
            "occurred_at": pa.array(at + to_millis(starts_at)).cast(SCHEMA.field("occurred_at").type),
            "amount_cents": cents,
            "items": items,
            "products": products,
            "returned": random.random(rows) < _RETURNED,
        },
        schema=SCHEMA,
    )
