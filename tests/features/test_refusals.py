"""What a view cannot be is refused when it is built, with the reason, the place and the mend."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core.errors import DeclarationError, UnknownName
from features.compile import flink_features
from features.derived import Arithmetic, Literally
from features.enriched import enriched_record
from features.judge.verify import verify
from features.online.memory import MemoryRollingStore
from features.plain import check_plain
from features.view import (
    Count,
    CountDistinct,
    Cumulating,
    Feature,
    FeatureView,
    First,
    Hopping,
    Last,
    Lookup,
    Min,
    Quantile,
    Ratio,
    Rolling,
    Sum,
    Tumbling,
    ago,
    coalesce,
    feature,
    field,
    moving_average,
)
from tests.features.rides import DRIVER, SECOND, Driver, Ride, ride, table
from tests.features.rides import view as rides_view
from tests.features.views import VIEW, Swipe

MINUTE = timedelta(minutes=1)
COUNT = Feature("count", Count(), unit="rides", empty=0)
KIND = Feature("kind_first", First("kind"), unit="x")


def windowed(*features: Feature, **change: Any) -> FeatureView:
    given: dict[str, Any] = {
        "name": "rides", "version": 1, "source": Ride, "entity": "city", "disorder": SECOND,
        "ttl": timedelta(minutes=2), "window": Tumbling(MINUTE),
    }  # fmt: skip
    return FeatureView(**(given | change), features=(COUNT, KIND, *features))


def one(definition: Any, **more: Any) -> Feature:
    return Feature("new", definition, unit="x", **more)


def counted(where: Any) -> Feature:
    return one(Count(where=where))


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        (Tumbling(timedelta(0)), "whole seconds"),
        (Tumbling(timedelta(milliseconds=1500)), "whole seconds"),
        (Tumbling(timedelta(days=100)), "at most 99 days"),
        (Hopping(MINUTE, timedelta(milliseconds=10)), "whole seconds"),
        (Hopping(MINUTE, 25 * SECOND), "whole part"),
        (Hopping(MINUTE, MINUTE), "Tumbling"),
        (Hopping(MINUTE, 2 * MINUTE), "whole part"),
        (Cumulating(MINUTE, 7 * SECOND), "whole part"),
        (Cumulating(MINUTE, MINUTE), "whole part"),
    ],
)
def test_windows(window: Any, reason: str) -> None:
    with pytest.raises(DeclarationError) as error:
        windowed(window=window)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (one(Count(over=MINUTE)), "the window is the view's"),
        (one(Ratio(Count(over=MINUTE), Count(over=MINUTE))), "the window is the view's"),
        (one(Min("kind")), "Min of 'kind', a string"),
        (one(CountDistinct("tip")), "CountDistinct of 'tip', a double"),
        (one(First("at")), "First of 'at', a time"),
        (one(Last("tags")), "Last of 'tags', a array"),
        (one(Quantile("fare", 1.5)), "0 <= p <= 1"),
        (one(Quantile("fare", float("nan"))), "0 <= p <= 1"),
        (one(Ratio(Last("kind"), Count())), "divide numbers"),
        (one(Sum("fare"), empty="none"), "empty 'none' of a long"),
        (one(Sum("fare"), empty=0.5), "empty 0.5 of a long"),
        (one(Sum("fare"), empty=True), "empty True of a long"),
        (one(First("kind"), empty=0), "empty 0 of a string"),
        (one(Sum("tip"), empty=float("inf")), "finite"),
        (one(Sum("fare"), empty=2**63), "64 bits"),
        (one(Count(), ttl=timedelta(0)), "at least a millisecond"),
        (one(Count(), ttl=timedelta(hours=1)), "at most the view's"),
        (Feature("window_end", Count(), unit="x"), "framework's own"),
        (Feature("fare", Count(), unit="x"), "there twice"),
        (Feature("New", Count(), unit="x"), "lower case"),
    ],
)
def test_features(new: Feature, reason: str) -> None:
    with pytest.raises(DeclarationError) as error:
        windowed(new)
    assert reason in str(error.value)
    assert "rides v1 over Ride" in str(error.value)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (field("kind") == 1, "'kind', a string, compared with 1, a long"),
        (field("fare") == 1.5, "'fare', a long, compared with 1.5, a double"),
        (field("fare") == True, "compared with True, a boolean"),  # noqa: E712
        (field("tip") < True, "compared with True, a boolean"),
        (field("shared") < True, "== or !="),
        (field("fare") < field("tip"), "columns of one sort"),
        (field("at") > 5, "'at', a time, in a filter"),
        (field("fare").is_in(), "at least one value"),
        (field("fare") < 2**63, "64 bits"),
        (field("tip") < float("nan"), "finite"),
        (field("kind") == "a\0b", "NUL"),
        (field("kind") == "\ud800", "surrogates"),
        (~(field("kind").is_null() & (field("seats") == "x")), "'seats'"),
    ],
)
def test_filters(where: Any, reason: str) -> None:
    with pytest.raises(DeclarationError) as error:
        windowed(counted(where))
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("derived", "reason"),
    [
        (feature("kind_first") + 1, "+ of long and string"),
        (coalesce(feature("kind_first"), 1), "coalesce of long and string"),
        (moving_average("kind_first", MINUTE), "average a number"),
        (coalesce(feature("count"), 1) + 2**63, "64 bits"),
        (feature("count") * float("inf"), "finite"),
        (ago("count", 90 * SECOND), "windows end each 0:01:00"),
        (ago("count", timedelta(0)), "windows end each"),
        (ago("count", -MINUTE), "windows end each"),
        (moving_average("count", 30 * SECOND), "windows end each"),
        (ago("count", timedelta(days=100)), "at most 99 days"),
        (feature("new") + 1, "circle"),
        (ago("new", MINUTE), "circle"),
    ],
)
def test_derived_features(derived: Any, reason: str) -> None:
    with pytest.raises(DeclarationError) as error:
        windowed(one(derived))
    assert reason in str(error.value)


def test_features_that_read_each_other_in_a_circle() -> None:
    with pytest.raises(DeclarationError, match="a, b read each other in a circle"):
        windowed(
            Feature("a", feature("b") + 1, unit="x"),
            Feature("b", feature("a") + feature("count"), unit="x"),
        )


def test_constants_alone_are_no_feature() -> None:
    with pytest.raises(DeclarationError, match="derived from no feature"):
        windowed(one(Literally(1)))
    with pytest.raises(DeclarationError, match="write the result"):
        windowed(one(feature("count") + Arithmetic("+", Literally(1), Literally(2))))


@pytest.mark.parametrize(
    "derived", [ago("total", MINUTE), feature("total") - moving_average("total", MINUTE)]
)
def test_time_in_a_rolling_view(derived: Any) -> None:
    total = Feature("total", Count(over=MINUTE), unit="x")
    with pytest.raises(DeclarationError) as error:
        FeatureView(
            name="rides", version=1, source=Ride, entity="city", disorder=SECOND, ttl=timedelta(minutes=2),
            features=(total, one(derived)),
        )  # fmt: skip
    assert "rolling view" in str(error.value)
    assert "Tumbling" in str(error.value.mend)


def test_a_rolling_aggregate_without_a_window() -> None:
    with pytest.raises(DeclarationError, match="no window"):
        windowed(window=Rolling())


def test_a_ratio_over_two_windows() -> None:
    ratio = Ratio(Count(over=MINUTE), Count(over=2 * MINUTE))
    with pytest.raises(DeclarationError) as error:
        FeatureView(
            name="rides", version=1, source=Ride, entity="city", disorder=SECOND, ttl=timedelta(minutes=2),
            features=(one(ratio),),
        )  # fmt: skip
    assert "divide two features" in str(error.value.mend)


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        ((), "name one field"),
        (("city", "city"), "several different"),
        ("kind", "no required string"),
        (("city", "seats"), "no required string"),
        ("driver_of.fee", "no required string"),
    ],
)
def test_entities(entity: Any, reason: str) -> None:
    with pytest.raises(DeclarationError) as error:
        windowed(entity=entity, lookups=(DRIVER,))
    assert reason in str(error.value)


def test_an_entity_that_is_looked_up_in_a_rolling_view() -> None:
    with pytest.raises(DeclarationError, match="lookup may find nothing"):
        replace(rides_view(Rolling()), entity=("city", "driver_of.level"))


@pytest.mark.parametrize(
    ("lookups", "reason"),
    [
        ((DRIVER, DRIVER), "there twice"),
        ((Lookup("Driver", Driver, on={"driver": "id"}),), "lower case"),
        ((Lookup("d", Driver, on={}),), "has no key"),
        ((Lookup("d", Driver, on={"fare": "id"}),), "two strings or two integers"),
        ((Lookup("d", Driver, on={"tip": "rating"}),), "two strings or two integers"),
        ((DRIVER, Lookup("d", Driver, on={"driver_of.level": "level"})), "a field of the record itself"),
    ],
)
def test_lookups(lookups: Any, reason: str) -> None:
    with pytest.raises(DeclarationError) as error:
        windowed(lookups=lookups)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("build", "nearest"),
    [
        (lambda: windowed(one(Sum("fares"))), "fare"),
        (lambda: windowed(counted(field("kinds") == "x")), "kind"),
        (lambda: windowed(counted(field("fare") > field("seat"))), "seats"),
        (lambda: windowed(counted(~field("tipp").is_null())), "tip"),
        (lambda: windowed(entity=("city", "zones")), "zone"),
        (lambda: windowed(one(Sum("driver_of.fees")), lookups=(DRIVER,)), "driver_of.fee"),
        (lambda: windowed(lookups=(Lookup("d", Driver, on={"drive": "id"}),)), "driver"),
        (lambda: windowed(lookups=(Lookup("d", Driver, on={"driver": "ident"}),)), "id"),
        (lambda: windowed(one(ago("counts", MINUTE))), "count"),
        (lambda: windowed(one(feature("count") + feature("cuont"))), "count"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(build: Any, nearest: str) -> None:
    with pytest.raises(UnknownName) as error:
        build()
    assert error.value.nearest == nearest


NOT_PLAIN = {
    "Tumbling": windowed(),
    "city, zone": replace(VIEW, source=Ride, entity=("city", "zone"), features=(one(Count(over=SECOND)),)),
    "driver_of": replace(
        VIEW, source=Ride, entity="city", features=(one(Count(over=SECOND)),), lookups=(DRIVER,)
    ),
    "derived": replace(VIEW, features=(*VIEW.features, one(feature("sum_10s") * 2))),
    "new is a Min": replace(VIEW, features=(one(Min("cents", over=SECOND)),)),
    "new has a filter": replace(VIEW, features=(one(Count(over=SECOND, where=field("cents") > 1)),)),
}


@pytest.mark.parametrize("reason", NOT_PLAIN)
def test_what_flink_and_the_rolling_store_cannot_run_is_refused_with_the_reason(reason: str) -> None:
    for build in (
        lambda: flink_features.views(NOT_PLAIN[reason], "events", "__at", "__late"),
        lambda: MemoryRollingStore(NOT_PLAIN[reason]),
    ):
        with pytest.raises(DeclarationError, match=reason) as error:
            build()
        assert error.value.mend


def test_every_reason_is_told_at_once() -> None:
    with pytest.raises(DeclarationError) as error:
        check_plain(rides_view(Tumbling(MINUTE)), "the Flink job")
    for reason in ("Tumbling", "driver_of", "kind_first is a First", "trend is derived"):
        assert reason in error.value.what
    check_plain(VIEW, "the Flink job")


def test_a_row_per_window_is_not_a_row_per_event() -> None:
    with pytest.raises(DeclarationError, match="row per window"):
        enriched_record(Ride, windowed())
    events = table(Ride, [ride("1", 0)])
    with pytest.raises(DeclarationError, match="row per window"):
        verify(windowed(), events, events)


def test_an_enriched_record_has_the_types_of_its_features() -> None:
    view = replace(
        VIEW,
        features=(
            *VIEW.features,
            Feature("domain_last", Last("domain", over=SECOND), unit="x"),
            Feature("trusted_last", Last("trusted", over=SECOND), unit="x"),
        ),
    )
    spec = enriched_record(Swipe, view).spec()
    assert spec.field("domain_last").kind == "string"
    assert spec.field("trusted_last").kind == "boolean"
    assert spec.field("mean_10s").kind == "double"
