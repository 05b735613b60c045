"""DuckDB's windows, aggregates, filters, lookups and derived features are those of the naive oracle."""

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import from_millis
from core.errors import DeclarationError, InvalidInput, UnknownName
from features.compile import duckdb
from features.offline.history import compute
from features.view import (
    Count,
    Cumulating,
    Feature,
    FeatureView,
    First,
    Hopping,
    Last,
    Quantile,
    Rolling,
    Sum,
    Tumbling,
    ago,
    change,
    feature,
    field,
    moving_average,
)
from tests.features.oracle import naive, naive_windows, same
from tests.features.rides import (
    DRIVER,
    FILTERS,
    SECOND,
    SHAPES,
    Driver,
    Ride,
    drivers,
    ride,
    rides,
    table,
    view,
)

ENTITIES = ("city", ("city", "zone"), ("zone", "driver_of.level"))


def windows(of: FeatureView, events: list[Ride], known: list[Driver]) -> list[dict[str, Any]]:
    found: pa.Table = compute(of, table(Ride, events), lookups={"driver_of": table(Driver, known)})
    return found.to_pylist()


def check_windows(of: FeatureView, events: list[Ride], known: list[Driver]) -> None:
    wanted = naive_windows(of, events, {"driver_of": known})
    found = windows(of, events, known)
    assert len(found) == len(wanted)
    for row, right in zip(found, wanted, strict=True):
        same(row, right)


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@settings(deadline=None, max_examples=20)
@given(rides(), drivers(), st.sampled_from(FILTERS), st.sampled_from(ENTITIES))
def test_every_feature_of_every_window_is_the_oracle_s(
    shape: Any, events: list[Ride], known: list[Driver], where: Any, entity: Any
) -> None:
    check_windows(view(shape, where=where, entity=entity), events, known)


@pytest.mark.parametrize("number", range(len(FILTERS)))
@settings(deadline=None, max_examples=4)
@given(rides(), drivers(), st.sampled_from(SHAPES))
def test_every_filter_takes_the_rows_that_the_oracle_takes(
    number: int, events: list[Ride], known: list[Driver], shape: Any
) -> None:
    check_windows(view(shape, where=FILTERS[number]), events, known)


@settings(deadline=None, max_examples=25)
@given(rides(), drivers(), st.sampled_from(FILTERS), st.sampled_from(ENTITIES[:2]))
def test_every_feature_of_every_event_of_a_rolling_view_is_the_oracle_s(
    events: list[Ride], known: list[Driver], where: Any, entity: Any
) -> None:
    of = view(Rolling(), where=where, entity=entity)
    rows = windows(of, events, known)
    assert [row["id"] for row in rows] == [event.id for event in events]
    for row, event in zip(rows, events, strict=True):
        wanted = naive(of, events, event, {"driver_of": known})
        same({name: row[name] for name in of.feature_names}, wanted)


def small(window: Any, *features: Feature, **more: Any) -> FeatureView:
    given: dict[str, Any] = {
        "name": "small",
        "version": 1,
        "source": Ride,
        "entity": "city",
        "disorder": SECOND,
        "ttl": timedelta(minutes=2),
    }
    return FeatureView(**(given | more), window=window, features=features)


COUNT = Feature("count", Count(), unit="rides", empty=0)


def spans(of: FeatureView, *events: Ride) -> list[tuple[float, float, int]]:
    return [
        (row["window_start"].timestamp(), row["window_end"].timestamp(), row["count"])
        for row in windows(of, list(events), [])
    ]


def test_windows_are_half_open_and_aligned_to_the_epoch_before_it_too() -> None:
    events = [ride("1", 0), ride("2", 9.999), ride("3", 10), ride("4", -0.001), ride("5", -10)]
    assert spans(small(Tumbling(10 * SECOND), COUNT), *events) == [(-10, 0, 2), (0, 10, 2), (10, 20, 1)]


def test_an_event_is_in_every_hopping_window_that_holds_it() -> None:
    found = spans(small(Hopping(20 * SECOND, 5 * SECOND), COUNT), ride("1", 10))
    assert found == [(-5, 15, 1), (0, 20, 1), (5, 25, 1), (10, 30, 1)]


def test_cumulating_windows_grow_from_the_event_to_the_end_of_the_stretch() -> None:
    found = spans(small(Cumulating(30 * SECOND, 10 * SECOND), COUNT), ride("1", 10), ride("2", 25))
    assert found == [(0, 20, 1), (0, 30, 2)]


def test_large_and_negative_integers_are_exact() -> None:
    largest = 2**62 - 1
    events = [ride("1", 0, fare=largest), ride("2", 1, fare=largest), ride("3", 2, fare=-(2**63))]
    of = small(
        Tumbling(10 * SECOND), Feature("sum", Sum("fare"), unit="x"), Feature("last", Last("fare"), unit="x")
    )
    (row,) = windows(of, events, [])
    assert (row["sum"], row["last"]) == (-2, -(2**63))


def test_an_integer_beyond_64_bits_is_an_error_and_not_a_wrong_value() -> None:
    events = [ride("1", 0, fare=2**63 - 1), ride("2", 1, fare=1)]
    of = small(Tumbling(10 * SECOND), Feature("sum", Sum("fare"), unit="x"))
    with pytest.raises(InvalidInput, match="does not fit"):
        windows(of, events, [])
    (row,) = windows(of, [*events, ride("3", 2, fare=-1)], [])
    assert row["sum"] == 2**63 - 1
    product = small(
        Tumbling(10 * SECOND),
        Feature("last", Last("fare"), unit="x"),
        Feature("squared", feature("last") * feature("last"), unit="x"),
    )
    with pytest.raises(InvalidInput, match="does not fit"):
        windows(product, [ride("1", 0, fare=2**40)], [])


def test_equal_times_are_told_apart_by_id() -> None:
    events = [ride("2", 5, fare=2), ride("10", 5, fare=10), ride("3", 5, fare=3), ride("4", 5)]
    of = small(
        Tumbling(10 * SECOND),
        Feature("first", First("fare"), unit="x"),
        Feature("last", Last("fare"), unit="x"),
    )
    for order in (events, events[::-1]):
        (row,) = windows(of, order, [])
        assert (row["first"], row["last"]) == (10, 3)


def test_a_quantile_lies_on_the_line_between_its_neighbours() -> None:
    of = small(Tumbling(10 * SECOND), Feature("high", Quantile("fare", 0.75), unit="x"))
    (row,) = windows(of, [ride(str(n), 0, fare=fare) for n, fare in enumerate((1, 100, 3))], [])
    assert row["high"] == pytest.approx(3 + (100 - 3) / 2)


def test_an_absent_window_counts_as_the_empty_value() -> None:
    of = small(
        Tumbling(10 * SECOND),
        COUNT,
        Feature("least", Sum("fare"), unit="x"),
        Feature("before", ago("count", 10 * SECOND), unit="x"),
        Feature("growth", change("count", 20 * SECOND), unit="x"),
        Feature("average", moving_average("count", 40 * SECOND), unit="x", empty=0),
        Feature("known", moving_average("least", 40 * SECOND), unit="x"),
    )
    events = [ride("1", 0, fare=8), ride("2", 1), ride("3", 20), ride("4", 30, fare=2)]
    rows = windows(of, events, [])
    assert [row["before"] for row in rows] == [0, 0, 1]
    assert [row["growth"] for row in rows] == [2, -1, 1]
    assert [row["average"] for row in rows] == [0.5, 0.75, 1.0]
    assert [row["known"] for row in rows] == [8.0, 8.0, 5.0]


def test_a_window_that_the_filter_empties_is_there_with_the_empty_value() -> None:
    of = small(
        Tumbling(10 * SECOND),
        Feature("bookings", Count(where=field("kind") == "booking"), unit="x", empty=0),
        Feature("fares", Sum("fare", where=field("kind") == "booking"), unit="x", empty=0),
    )
    (row,) = windows(of, [ride("1", 0, kind="search", fare=3)], [])
    assert (row["bookings"], row["fares"]) == (0, 0)


def test_a_lookup_stays_within_the_tenant_and_loses_no_event() -> None:
    of = small(
        Tumbling(10 * SECOND),
        COUNT,
        Feature("fees", Sum("driver_of.fee"), unit="x", empty=0),
        lookups=(DRIVER,),
    )
    known = [Driver(tenant="other", id="1", since=from_millis(0), fee=100)]
    events = [ride("1", 0, driver="1"), ride("2", 0)]
    (row,) = windows(of, events, known)
    assert (row["count"], row["fees"]) == (2, 0)
    ours = [*known, replace_tenant(known[0], "t")]
    (row,) = windows(of, events, ours)
    assert (row["count"], row["fees"]) == (2, 100)


def replace_tenant(driver: Driver, tenant: str) -> Driver:
    return Driver(tenant=tenant, id=driver.id, since=driver.since, fee=driver.fee)


def test_a_reference_key_that_is_there_twice_is_refused() -> None:
    of = view(SHAPES[0])
    twice = [Driver(tenant="t", id="1", since=from_millis(0), fee=fee) for fee in (1, 2)]
    with pytest.raises(InvalidInput, match="more than once"):
        windows(of, [ride("1", 0)], twice)


def test_what_is_missing_is_named() -> None:
    of, events = view(SHAPES[0]), table(Ride, [ride("1", 0)])
    with pytest.raises(UnknownName, match="driver_of"):
        compute(of, events)
    with pytest.raises(UnknownName, match="fee"):
        compute(of, events, lookups={"driver_of": table(Driver, []).drop_columns(["fee"])})
    with pytest.raises(UnknownName, match="fare"):
        compute(of, events.drop_columns(["fare"]), lookups={"driver_of": table(Driver, [])})


def test_windows_carry_nothing_and_do_not_read_the_table_of_a_lookup() -> None:
    with pytest.raises(DeclarationError, match="carried"):
        duckdb.select(view(SHAPES[0]), "events", carried=("id",))
    with pytest.raises(DeclarationError, match="both"):
        duckdb.select(view(SHAPES[0]), "driver_of")


def test_no_events_give_no_windows() -> None:
    assert windows(view(SHAPES[0]), [], []) == []
