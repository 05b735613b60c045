"""Tumbling views as running aggregates: the values of DuckDB in any order of events, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import from_millis, to_millis
from core.errors import DeclarationError
from features.aggregates import reads, simple_parts
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.compile.accumulators import why_not_mergeable
from features.compile.running import RunningView, Window, check_running
from features.filters import Condition, columns_of
from features.offline.history import compute
from features.view import (
    Count,
    CountDistinct,
    Cumulating,
    Derived,
    Feature,
    FeatureView,
    Hopping,
    Mean,
    Quantile,
    Ratio,
    Std,
    Sum,
    Tumbling,
)
from schemas.record import Record
from tests.features.oracle import same
from tests.features.rides import FILTERS, SECOND, Ride, ride, rides, table
from tests.features.rides import view as every_feature

OWN_FILTERS = [
    where for where in FILTERS if where is None or not any("." in name for name in columns_of(where))
]


def mergeable_view(window: Tumbling, where: Condition | None, entity: Any = "city") -> FeatureView:
    """Every mergeable aggregate over every sort of the record's columns, and a count per filter."""
    whole = every_feature(window, where=where, entity=entity)
    features = [
        feature
        for feature in whole.features
        if not isinstance(feature.definition, Derived)
        and not any("." in name for name in reads(feature.definition))
        and not any(why_not_mergeable(part) for part in simple_parts(feature.definition))
    ]
    features += [
        Feature(f"taken_{number}", Count(where=one), unit="rides")
        for number, one in enumerate(OWN_FILTERS)
        if one is not None
    ]
    return replace(whole, features=tuple(features), lookups=())


def run(view: FeatureView, events: Sequence[Record]) -> list[dict[str, Any]]:
    """The rows of `features.offline.history.compute`, computed by running aggregates."""
    running = RunningView(view)
    windows: dict[tuple[Any, ...], Window] = {}
    for event in events:
        at = to_millis(getattr(event, view.time))
        entity = [getattr(event, name) for name in view.entity_fields]
        key = (event.tenant, *entity, running.end_of(at))
        windows.setdefault(key, running.begin()).add(event, (at, event.id))
    rows = []
    for (tenant, *entity, end), window in sorted(windows.items(), key=lambda item: item[0]):
        times = {"window_start": from_millis(end - running.size_ms), "window_end": from_millis(end)}
        names = dict(zip(view.entity_fields, entity, strict=True))
        rows.append({"tenant": tenant, **names, **times, **running.values(window)})
    return rows


@settings(deadline=None, max_examples=150)
@given(
    events=rides(most=40),
    size=st.sampled_from([10, 60]),
    where=st.sampled_from(OWN_FILTERS),
    entity=st.sampled_from(["city", ("zone", "city")]),
    order=st.randoms(use_true_random=False),
)
def test_values_are_duckdb_s_in_any_order(
    events: list[Ride], size: int, where: Condition | None, entity: Any, order: Any
) -> None:
    view = mergeable_view(Tumbling(size * SECOND), where, entity)
    wanted = compute(view, table(Ride, events)).to_pylist()
    order.shuffle(events)
    found = run(view, events)
    assert len(found) == len(wanted)
    for row, right in zip(found, wanted, strict=True):
        same(row, right)


def test_every_mergeable_aggregate_is_in_the_property_test() -> None:
    made = {
        type(part).__name__
        for _, aggregate in mergeable_view(Tumbling(SECOND), None).aggregates
        for part in simple_parts(aggregate)
    }
    assert made == {"Count", "Sum", "Mean", "Std", "Min", "Max", "First", "Last"}


def one_feature(definition: Any, **more: Any) -> FeatureView:
    given: dict[str, Any] = {
        "name": "one", "version": 1, "source": Ride, "entity": "city", "disorder": SECOND,
        "window": Tumbling(10 * SECOND), "ttl": timedelta(minutes=2),
        "features": (Feature("value", definition, unit="x"),),
    }  # fmt: skip
    return FeatureView(**(given | more))


def value(definition: Any, *events: Ride) -> Any:
    (row,) = run(one_feature(definition), events)
    return row["value"]


def test_integers_are_exact_beyond_doubles() -> None:
    large = 2**61
    fares = [ride("1", 0, fare=large + 1), ride("2", 1, fare=large), ride("3", 2, fare=-large)]
    assert value(Sum("fare"), *fares) == large + 1
    assert value(Std("fare"), *[ride(str(n), 0, fare=large + 1) for n in range(3)]) == 0.0
    tiny = [ride("1", 0, fare=10**12), ride("2", 0, fare=10**12 + 2)]
    assert value(Std("fare"), *tiny) == 1.0


def test_a_deviation_of_doubles_survives_a_large_mean() -> None:
    assert value(Std("tip"), ride("1", 0, tip=1e9), ride("2", 1, tip=1e9 + 2)) == 1.0


def test_a_sum_beyond_64_bits_wraps_around_as_in_flink() -> None:
    assert value(Sum("fare"), ride("1", 0, fare=2**63 - 1), ride("2", 1, fare=1)) == -(2**63)


def test_a_ratio_by_nothing_has_no_value() -> None:
    ratio = Ratio(Count(), Sum("fare"))
    assert value(ratio, ride("1", 0, fare=0)) is None
    assert value(ratio, ride("1", 0)) is None
    assert value(Mean("fare"), ride("1", 0)) is None


def refused(view: FeatureView) -> str:
    with pytest.raises(DeclarationError) as raised:
        check_running(view)
    return str(raised.value)


def test_shipped_views_that_faust_cannot_run_are_refused_with_every_reason() -> None:
    said = refused(CARD_ACTIVITY)
    assert "Faust cannot run card_activity v1" in said
    assert "a row per event" in said
    assert "email_domains_7d is a CountDistinct" in said
    said = refused(REGIONAL_DEMAND)
    for name in ("rolling_avg", "trend", "seasonality_day", "seasonality_week"):
        assert f"{name} is derived from other features" in said
    assert "conversion" not in said
    assert "Flink" in said


def test_what_is_not_mergeable_or_not_local_is_refused() -> None:
    assert "value is a Quantile" in refused(one_feature(Quantile("fare", 0.5)))
    assert "value is a CountDistinct" in refused(one_feature(Ratio(Count(), CountDistinct("kind"))))
    hopping, cumulating = Hopping(20 * SECOND, 10 * SECOND), Cumulating(20 * SECOND, 10 * SECOND)
    assert "windows are Hopping" in refused(one_feature(Count(), window=hopping))
    assert "windows are Cumulating" in refused(one_feature(Count(), window=cumulating))
    assert "its source is keyed by city" in refused(one_feature(Count(), entity="zone"))
    every = refused(every_feature(Tumbling(10 * SECOND)))
    assert "looks up driver_of" in every
    assert "balance is derived" in every
    assert check_running(one_feature(Count(), entity=("zone", "city"))) == Tumbling(10 * SECOND)
