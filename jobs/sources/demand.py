"""User events of a market with demand by region, derived from shopping baskets (`jobs.sources.baskets`).

The bookings are real: when, how many, by whom and where (the store's region). What a shop's data does not
have is made around them by a rule with a fixed seed:

- searches: before each booking, as many as a basket of so many different products suggests, 1 + Poisson
  (products / 4), at most 10; the last one before the booking and each before the next by 1 s + an
  exponential time with mean 90 s;
- searches without a booking: by 40 % of the baskets' households, at a time up to 12 hours away from the
  basket, 1 + Poisson(2), at most 10, spaced as above;
- cancels: of every booking with something given back, and of 5 % of the others, 1 s + an exponential time
  with mean 2 hours after it.

Every further copy of the data is other users who do about the same: bookings up to an hour away from the
recorded ones, everything else drawn anew. Copy n is the same however many there are.
"""

from datetime import datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.clock import to_millis
from core.errors import InvalidInput
from jobs.sources.commerce import TENANT, constant, numbered, regions
from jobs.sources.slices import TIME
from schemas.catalog.user_events import UserEvent
from schemas.codec import arrow_schema

MAX_COPIES = 1_000
MAX_BASKETS = 8_000_000

_PRODUCTS_PER_SEARCH = 4.0
_MOST_SEARCHES = 10
_BROWSING = 0.4
_CANCELLED = 0.05
_SECOND_MS = 1_000
_SEARCH_GAP_MS = 90_000.0
_CANCEL_AFTER_MS = 2 * 3_600_000.0
_HOUR_MS = 3_600_000
_KINDS = ("booking", "search", "search", "cancel")
_LETTERS = ("b", "s", "a", "c")

Integers = npt.NDArray[np.int64]


class _Drawn(NamedTuple):
    """Events as numbers: epoch milliseconds, row of the basket, index into `_KINDS`, number of its kind
    within the basket, copy."""

    at: Integers
    basket: Integers
    what: Integers
    number: Integers
    copy: Integers


def user_events(baskets: pa.Table, *, copies: int = 1, seed: int = 0, tenant: str = TENANT) -> pa.Table:
    """All events from the first to the last of these baskets (both times included), in time order: the
    columns of `UserEvent`, about 5 rows a basket and copy. Equal arguments give equal tables; ids are unique
    in the table. `baskets` is ordered by time, as `jobs.sources.baskets` gives it.

    Raises InvalidInput outside 1 to 1,000 copies, without baskets, and above 8 million baskets in all copies.
    """
    if not 1 <= copies <= MAX_COPIES or not 1 <= copies * baskets.num_rows <= MAX_BASKETS:
        raise InvalidInput(
            f"{copies} copies of {baskets.num_rows} baskets",
            mend=f"take 1 to {MAX_COPIES} copies, and at most {MAX_BASKETS} baskets in all of them",
        )
    drawn = [_draw(baskets, copy, np.random.default_rng([seed, copy])) for copy in range(copies)]
    together = _Drawn(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))
    times = baskets[TIME].cast(pa.int64()).to_numpy()
    inside = np.flatnonzero((together.at >= times[0]) & (together.at <= times[-1]))
    order = inside[np.argsort(together.at[inside], kind="stable")]
    at, basket, what, number, copy = (part[order] for part in together)
    rows = baskets.take(pa.array(basket))
    whose = pc.binary_join_element_wise(numbered("h", rows["household_id"]), _text(pa.array(copy)), "-")
    ids = pc.binary_join_element_wise(
        pc.binary_join_element_wise(pa.array(_LETTERS).take(pa.array(what)), _text(rows["basket_id"]), ""),
        _text(pa.array(copy)),
        _text(pa.array(number)),
        "-",
    )
    columns = {
        "tenant": constant(tenant, len(at)),
        "id": ids,
        "user_id": whose,
        "region": regions(rows["store_id"]),
        "kind": pa.array(_KINDS).take(pa.array(what)),
        TIME: pa.array(at).cast(pa.timestamp("ms", tz="UTC")),
    }
    return pa.table(columns, schema=arrow_schema(UserEvent.spec())).combine_chunks()


def at_rate(table: pa.Table, rate: float, *, starts_at: datetime) -> pa.Table:
    """The rows in their order, evenly spaced at `rate` a second from `starts_at`; times in whole
    milliseconds, rounded down. (With the recorded spacing: `slices.ending_at`.)"""
    if not rate > 0:
        raise InvalidInput(f"{rate} events a second", mend="give a positive rate")
    field = table.schema.field(TIME)
    times = to_millis(starts_at) + np.floor(np.arange(table.num_rows) * (1000.0 / rate)).astype(np.int64)
    return table.set_column(table.schema.get_field_index(TIME), field, pa.array(times).cast(field.type))


def _draw(baskets: pa.Table, copy: int, random: np.random.Generator) -> _Drawn:
    count = baskets.num_rows
    recorded = baskets[TIME].cast(pa.int64()).to_numpy()
    booked = recorded + (random.integers(-_HOUR_MS, _HOUR_MS + 1, count) if copy else 0)
    searches = 1 + random.poisson(baskets["products"].to_numpy() / _PRODUCTS_PER_SEARCH)
    searched = _series(np.minimum(searches, _MOST_SEARCHES), random)
    looks = np.where(random.random(count) < _BROWSING, 1 + random.poisson(2.0, count), 0)
    away = random.integers(-12 * _HOUR_MS, 12 * _HOUR_MS + 1, count)
    looked = _series(np.minimum(looks, _MOST_SEARCHES), random)
    returned = baskets["returned"].to_numpy()
    cancelled = np.flatnonzero(returned | (random.random(count) < _CANCELLED))
    after = _SECOND_MS + random.exponential(_CANCEL_AFTER_MS, len(cancelled)).astype(np.int64)
    ones = np.ones(count, np.int64)
    parts = (
        (booked, np.arange(count), ones),
        (booked[searched.of] - searched.gap, searched.of, searched.number),
        ((recorded + away)[looked.of] + looked.gap, looked.of, looked.number),
        (booked[cancelled] + after, cancelled, ones[: len(cancelled)]),
    )
    at, basket, number = (np.concatenate(column) for column in zip(*parts, strict=True))
    what = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    return _Drawn(at, basket, what, number, np.full(len(at), copy, np.int64))


class _Series(NamedTuple):
    """Rows of events of a basket each: the basket, its number from 1, and the time to where the series
    begins, which grows with the number."""

    of: Integers
    number: Integers
    gap: Integers


def _series(counts: Integers, random: np.random.Generator) -> _Series:
    """`counts[i]` events of basket i."""
    of = np.repeat(np.arange(len(counts)), counts)
    begins = np.cumsum(counts) - counts
    gaps = _SECOND_MS + random.exponential(_SEARCH_GAP_MS, len(of)).astype(np.int64)
    summed = np.concatenate([[0], np.cumsum(gaps)])
    positions = np.arange(len(of))
    return _Series(of, positions - begins[of] + 1, summed[positions + 1] - summed[begins[of]])


def _text(numbers: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return numbers.cast(pa.string())
