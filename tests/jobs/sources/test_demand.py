"""The stream of user events: fixed by its seed, true to the baskets, each rule seen in the events."""

import hashlib
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.errors import InvalidInput
from core.settings import settings
from gateway.intake import ID_SHAPE
from jobs.sources.baskets import baskets
from jobs.sources.commerce import REGIONS
from jobs.sources.demand import at_rate, user_events
from jobs.sources.generated_baskets import generate
from schemas.catalog.user_events import UserEvent
from schemas.codec import arrow_schema

BASKETS = generate(8_000, seed=2)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return user_events(BASKETS, copies=2, seed=7, tenant="acme")


@pytest.fixture(scope="module")
def rows(table: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def digest(table: pa.Table, rows: int = 5_000) -> str:
    """Of the first rows, whatever their chunks."""
    text = "\n".join("|".join(map(str, row.values())) for row in table.slice(0, rows).to_pylist())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_same_seed_is_the_same_stream_for_ever(table: pa.Table) -> None:
    assert digest(table) == "c77230c0b2a3057c"
    assert user_events(BASKETS, copies=2, seed=7, tenant="acme").equals(table)
    assert not user_events(BASKETS, copies=2, seed=8, tenant="acme").equals(table)


def test_the_real_stream_is_the_same_for_ever() -> None:
    """Only where the data has been downloaded: no test downloads data."""
    if not list((settings().cache / "data").glob("baskets-*.parquet")):
        pytest.skip("NOT TESTED: the basket data has not been downloaded")
    table = user_events(baskets()[0])
    assert table.num_rows == 844_682
    assert digest(table) == "982b672dd355f33d"


def test_every_row_is_a_valid_record_in_time_order_with_an_id_of_its_own(
    table: pa.Table, rows: list[dict[str, Any]]
) -> None:
    assert table.schema == arrow_schema(UserEvent.spec())
    for row in rows[:2_000]:
        found = msgspec.convert(row, UserEvent)
        assert (found.tenant, found.region in REGIONS) == ("acme", True)
        assert ID_SHAPE.fullmatch(found.id)
    times = table["occurred_at"].cast(pa.int64()).to_numpy()
    assert (np.diff(times) >= 0).all()
    assert (times[0], times[-1]) == tuple(
        BASKETS["occurred_at"].cast(pa.int64()).to_numpy()[[0, -1]].tolist()
    )
    assert pc.count_distinct(table["id"]).as_py() == table.num_rows


def test_another_copy_changes_nothing_in_the_first(table: pa.Table) -> None:
    alone = user_events(BASKETS, copies=1, seed=7, tenant="acme")
    first = table.filter(pc.ends_with(table["user_id"], "-0"))
    assert first.combine_chunks().equals(alone)
    second = table.num_rows - alone.num_rows
    assert second == pytest.approx(alone.num_rows, rel=0.05)


def parts(row: dict[str, Any]) -> tuple[str, int, int, int]:
    found = re.fullmatch(r"([bsac])(\d+)-(\d+)-(\d+)", row["id"])
    assert found is not None
    return found[1], int(found[2]), int(found[3]), int(found[4])


def test_the_events_of_a_basket_follow_the_rules(rows: list[dict[str, Any]]) -> None:
    of = {row["basket_id"]: row for row in BASKETS.to_pylist()}
    first, last = BASKETS["occurred_at"][0].as_py(), BASKETS["occurred_at"][-1].as_py()
    bookings: dict[tuple[int, int], Any] = {}
    others: dict[tuple[str, int, int], list[tuple[int, Any]]] = defaultdict(list)
    for row in rows:
        letter, basket, copy, number = parts(row)
        source = of[basket]
        assert row["region"] == REGIONS[source["store_id"] % 8]
        assert row["user_id"] == f"h{source['household_id']}-{copy}"
        assert row["kind"] == {"b": "booking", "s": "search", "a": "search", "c": "cancel"}[letter]
        if letter == "b":
            bookings[basket, copy] = row["occurred_at"]
        else:
            others[letter, basket, copy].append((number, row["occurred_at"]))
    inner = [b for b, row in of.items() if first + 24 * HOUR < row["occurred_at"] < last - 24 * HOUR]
    for basket in inner:
        recorded = of[basket]["occurred_at"]
        assert bookings[basket, 0] == recorded
        assert abs(bookings[basket, 1] - recorded) <= HOUR
        for copy in (0, 1):
            booked = bookings[basket, copy]
            searched = sorted(others["s", basket, copy])
            assert [number for number, _ in searched] == list(range(1, len(searched) + 1))
            assert 1 <= len(searched) <= 10
            before = [booked, *(at for _, at in searched)]
            assert all(nearer - further >= timedelta(seconds=1) for nearer, further in pairwise(before))
            cancelled = others["c", basket, copy]
            assert len(cancelled) <= 1
            assert all(at > booked for _, at in cancelled)
            if of[basket]["returned"]:
                assert cancelled or booked > last - 24 * HOUR
            looked = sorted(others["a", basket, copy])
            assert len(looked) <= 10
            assert all(abs(at - recorded) < 13 * HOUR for _, at in looked)
    chosen = set(inner)
    counted = Counter(letter for (letter, basket, _), found in others.items() if found and basket in chosen)
    kept = sum(not of[basket]["returned"] for basket in inner)
    assert counted["a"] / (2 * len(inner)) == pytest.approx(0.4, abs=0.02)
    given_back = 2 * (len(inner) - kept)
    assert (counted["c"] - given_back) / (2 * kept) == pytest.approx(0.05, abs=0.01)
    few = [len(others["s", basket, 0]) for basket in inner if of[basket]["products"] <= 4]
    many = [len(others["s", basket, 0]) for basket in inner if of[basket]["products"] >= 20]
    assert np.mean(few) == pytest.approx(1 + 3 / 4, abs=0.3)
    assert np.mean(many) > 2 * np.mean(few)


def test_times_can_be_laid_at_a_rate(table: pa.Table) -> None:
    start = datetime(2031, 5, 1, tzinfo=UTC)
    spaced = at_rate(table.slice(0, 1_000), 300.0, starts_at=start)
    assert spaced.drop_columns(["occurred_at"]).equals(table.slice(0, 1_000).drop_columns(["occurred_at"]))
    times = spaced["occurred_at"].to_pylist()
    assert times[0] == start
    assert [times[n] - start for n in (1, 3, 999)] == [timedelta(milliseconds=ms) for ms in (3, 10, 3_330)]
    assert spaced.schema == table.schema
    with pytest.raises(InvalidInput):
        at_rate(table, 0.0, starts_at=start)


@pytest.mark.parametrize(("count", "copies"), [(0, 1), (1, 0), (1, 1_001), (8_000, 1_000_000)])
def test_out_of_bounds_is_refused(count: int, copies: int) -> None:
    with pytest.raises(InvalidInput):
        user_events(BASKETS.slice(0, count), copies=copies)
