"""Card payments out of nothing: the columns of `Transaction` with fraud in them that can be learned.

Needs no download. Two kinds of trace lead to the fraud. On the card: a stolen card is used several times
within an hour, for larger amounts and with changing e-mail domains; that is what the rolling features see.
In the attributes: some counts and sums grow with a hidden risk that is higher, but not always, in fraud.
Equal arguments give equal tables.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.clock import to_millis
from core.errors import InvalidInput
from models.manifest import DataSource
from schemas.catalog.transactions import Transaction
from schemas.codec import arrow_schema
from schemas.record import FieldSpec

SOURCE = DataSource(name="generated card payments", licence="Apache-2.0, made by this program")
LABEL = "is_fraud"
STARTS_AT = datetime(2026, 1, 1, tzinfo=UTC)
ROWS_PER_DAY = 3_245  # the pace of the real data
ROWS_PER_CARD = 12
FRAUD_SHARE = 0.035
MAX_ROWS = 5_000_000

_STRIKES = 5  # payments with one stolen card
_RISKY = 0.15  # share of attributes that carry the risk
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_PRODUCTS = ("W", "C", "H", "R", "S")
_WORDS = {
    "product": _PRODUCTS,
    "email_domain": tuple(f"mail{n}.example" for n in range(40)),
    "id_16": ("Found", "NotFound"),
    "id_27": ("Found", "NotFound"),
    "device_info": tuple(f"device {n}" for n in range(200)),
}
_NULL_SHARES = (0.0, 0.1, 0.75)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def generate(rows: int, *, seed: int = 0, starts_at: datetime = STARTS_AT, tenant: str = "demo") -> pa.Table:
    """`rows` payments in time order, about 3,245 a day from `starts_at`, 3.5 % fraud.

    Columns: those of `Transaction`, then `is_fraud` (int8, 0 or 1). Raises InvalidInput outside 100 to
    5,000,000 rows.
    """
    if not 100 <= rows <= MAX_ROWS:
        raise InvalidInput(f"{rows} rows", mend=f"ask for 100 to {MAX_ROWS}")
    random = np.random.default_rng(seed)
    at, card, fraud = _payments(rows, random)
    risk = random.normal(0.0, 1.0, rows) + 1.2 * fraud
    schema = arrow_schema(Transaction.spec())
    columns: dict[str, pa.Array] = {
        "tenant": pa.nulls(rows, pa.string()).fill_null(tenant),
        "id": pa.array(np.char.mod(f"g{seed}-%09d", np.arange(rows)), pa.string()),
        "occurred_at": pa.array(at + to_millis(starts_at)).cast(schema.field("occurred_at").type),
        "amount_cents": pa.array(_amounts(fraud, risk, random)),
        **_cards(card),
    }
    card1, card2, addr1 = (
        columns[name].cast(pa.string()).fill_null("x") for name in ("card1", "card2", "addr1")
    )
    columns["card_id"] = pa.compute.binary_join_element_wise(card1, card2, addr1, "-")
    for field in Transaction.spec().fields:
        if field.name not in columns:
            make: Callable[..., pa.Array] = _words if field.name in _WORDS else _numbers
            columns[field.name] = make(field, card, fraud, risk, random).cast(schema.field(field.name).type)
    columns[LABEL] = pa.array(fraud.astype(np.int8))
    return pa.table(columns, schema=schema.append(pa.field(LABEL, pa.int8(), nullable=False)))


def _payments(rows: int, random: np.random.Generator) -> tuple[Integers, Integers, Flags]:
    """Event time in milliseconds from 0, card number and fraud of every payment, ordered by time."""
    span = rows * _DAY_MS // ROWS_PER_DAY
    cards = max(rows // ROWS_PER_CARD, 10)
    thefts = max(round(rows * FRAUD_SHARE / _STRIKES), 4)
    strikes = thefts * _STRIKES
    stolen = random.integers(0, cards, thefts)
    begins = random.integers(0, max(span - _HOUR_MS, 1), thefts)
    steps = random.exponential(_HOUR_MS / 8, (thefts, _STRIKES)).cumsum(axis=1).astype(np.int64)
    at = np.concatenate([random.integers(0, span, rows - strikes), (begins[:, None] + steps).ravel()])
    # some cards are used far more often than others
    honest = (cards * random.random(rows - strikes) ** 2).astype(np.int64)
    card = np.concatenate([honest, np.repeat(stolen, _STRIKES)])
    fraud = np.arange(rows) >= rows - strikes
    order = np.argsort(at, kind="stable")
    return at[order], card[order], fraud[order]


def _amounts(fraud: Flags, risk: Floats, random: np.random.Generator) -> Integers:
    dollars = random.lognormal(4.2 + 0.4 * fraud + 0.05 * risk, 0.9)
    cents: Integers = np.clip(np.round(dollars * 100), 25, 3_000_000).astype(np.int64)
    return cents


def _cards(card: Integers) -> dict[str, pa.Array]:
    """What is printed on a card and where it is billed: the same for all its payments."""
    mixed = (card * 2_654_435_761) % 2**32
    return {
        "card1": pa.array(1_000 + card % 17_000, pa.int32()),
        "card2": pa.array(100 + mixed % 500, pa.int32(), mask=mixed % 67 == 0),
        "card3": pa.array(np.where(mixed % 8 == 0, 185, 150), pa.int32()),
        "card5": pa.array(100 + mixed // 7 % 138, pa.int32(), mask=mixed % 141 == 0),
        "addr1": pa.array(100 + mixed // 3 % 440, pa.int32(), mask=mixed % 9 == 0),
        "addr2": pa.array(np.full(len(card), 87), pa.int32(), mask=mixed % 9 == 0),
    }


def _words(
    field: FieldSpec, card: Integers, fraud: Flags, risk: Floats, random: np.random.Generator
) -> pa.Array:
    words = _WORDS[field.name]
    own = card * 31 % len(words)
    changes = random.random(len(card)) < np.where(fraud, 0.7, 0.1)
    which = np.where(changes, random.integers(0, len(words), len(card)), own)
    hidden = random.random(len(card)) < 0.4 - 0.2 * fraud if field.nullable else None
    return pa.array(words, pa.string()).take(pa.array(which, mask=hidden))


def _numbers(
    field: FieldSpec, card: Integers, fraud: Flags, risk: Floats, random: np.random.Generator
) -> pa.Array:
    weight = random.uniform(0.2, 0.5) if random.random() < _RISKY else 0.0
    mean = random.uniform(0.3, 6.0) * np.exp(weight * risk)
    counts = random.poisson(mean)
    nulls = _NULL_SHARES[random.integers(0, len(_NULL_SHARES))] if field.nullable else 0.0
    mask = random.random(len(card)) < nulls if nulls else None
    if field.kind == "double":
        return pa.array(np.round(counts * random.uniform(10.0, 60.0), 2), mask=mask)
    return pa.array(counts, mask=mask)
