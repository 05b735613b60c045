"""A record with a reference, and random views over them: every shape, aggregate, filter, derived feature."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from core.clock import from_millis
from features.derived import Derived
from features.filters import Condition
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
    Max,
    Mean,
    Min,
    Quantile,
    Ratio,
    Rolling,
    Std,
    Sum,
    Tumbling,
    ago,
    change,
    coalesce,
    feature,
    field,
    moving_average,
)
from features.windows import Window
from schemas.record import Int32, Record, record

SECOND = timedelta(seconds=1)
BORDERS = (0, 951_868_800_000, 1_772_323_200_000)
"""The epoch, a day after 29 February 2000, a day of 2026: events lie on both sides of each."""


@record(entity="city", time="at", namespace="millstream.tests")
class Ride(Record, frozen=True, kw_only=True):
    city: str
    zone: str
    at: datetime
    kind: str | None = None
    fare: int | None = None
    seats: Int32 = 1
    tip: float | None = None
    shared: bool | None = None
    driver: str | None = None
    tags: list[str] = []


@record(entity="id", time="since", namespace="millstream.tests")
class Driver(Record, frozen=True, kw_only=True):
    since: datetime
    level: str | None = None
    fee: int | None = None
    rating: float | None = None
    active: bool | None = None


DRIVER = Lookup("driver_of", Driver, on={"driver": "id"})
KINDS = ("booking", "search", "ü'\"|%")
SHAPES: tuple[Window, ...] = (
    Tumbling(10 * SECOND),
    Tumbling(60 * SECOND),
    Hopping(20 * SECOND, 5 * SECOND),
    Cumulating(30 * SECOND, 10 * SECOND),
)
FILTERS: tuple[Condition | None, ...] = (
    None,
    field("kind") == "booking",
    field("kind") != "ü'\"|%",
    field("kind").is_in("search", "ü'\"|%"),
    ~field("kind").is_in("search"),
    field("fare").is_null() | (field("fare") < 0),
    ~(field("fare") > 10) & (field("seats") >= 2),
    ~((field("tip") <= 0.5) | (field("shared") == True)),  # noqa: E712
    field("fare") > field("seats"),
    field("shared").is_in(True, False),
    (field("kind") == "booking") & field("driver_of.level").is_null(),
    field("driver_of.fee") >= 3,
    ~(field("driver_of.active") == True),  # noqa: E712
    field("driver_of.rating") < field("tip"),
)


def aggregates(over: timedelta | None, where: Condition | None) -> dict[str, Any]:
    """Every aggregate over every sort of column, with the empty values of the named ones."""
    given: dict[str, Any] = {"over": over, "where": where}
    return {
        "count": Count(**given),
        "kinds": CountDistinct("kind", **given),
        "fares": CountDistinct("fare", **given),
        "levels": CountDistinct("driver_of.level", **given),
        "fare_sum": Sum("fare", **given),
        "tip_sum": Sum("tip", **given),
        "fare_mean": Mean("fare", **given),
        "fare_std": Std("fare", **given),
        "tip_std": Std("tip", **given),
        "fare_min": Min("fare", **given),
        "tip_min": Min("tip", **given),
        "seats_max": Max("seats", **given),
        "fee_max": Max("driver_of.fee", **given),
        "kind_first": First("kind", **given),
        "shared_last": Last("shared", **given),
        "tip_first": First("tip", **given),
        "fare_last": Last("fare", **given),
        "fare_median": Quantile("fare", 0.5, **given),
        "tip_high": Quantile("tip", 0.9, **given),
        "share": Ratio(Count(**given), Count(over=over)),
        "per_seat": Ratio(Sum("fare", **given), Sum("seats", over=over, where=field("kind") == "booking")),
    }


EMPTY: dict[str, Any] = {
    "count": 0,
    "kinds": 0,
    "fare_sum": 0,
    "tip_sum": 0.0,
    "fare_mean": -1.5,
    "seats_max": 7,
    "kind_first": "none'",
    "shared_last": False,
    "share": 0.0,
}


def derived(every: timedelta | None) -> dict[str, Derived]:
    """Derived features of the aggregates above; with those of time where windows end each `every`."""
    out: dict[str, Derived] = {
        "balance": feature("fare_sum") - feature("count") * 3 + 1,
        "halved": feature("fare_sum") / 2,
        "by_count": feature("tip_sum") / feature("count"),
        "by_kinds": (2 * feature("tip_sum") - feature("fare_mean")) / feature("kinds"),
        "smallest": coalesce(feature("fare_min"), feature("seats_max"), 0),
        "either": coalesce(feature("tip_min"), feature("fare_min")),
        "said": coalesce(feature("kind_first"), "nothing"),
        "twice": feature("balance") + feature("balance"),
        "under_one": 1 / feature("fares"),
    }
    if every is not None:
        out |= {
            "before": ago("fare_sum", every),
            "kind_before": ago("kind_first", 2 * every),
            "min_before": ago("fare_min", every),
            "growth": change("count", 3 * every),
            "average": moving_average("fare_sum", 4 * every),
            "known_average": moving_average("tip_min", 3 * every),
            "offset_average": moving_average("fare_mean", 2 * every),
            "average_before": ago("average", every),
            "trend": feature("average") - moving_average("fare_sum", 8 * every),
            "growth_average": moving_average("growth", 2 * every),
        }
    return out


DERIVED_EMPTY: dict[str, Any] = {"balance": 0, "under_one": 0.0, "average": 0.0, "growth": 5, "said": "x"}


def view(
    window: Window,
    *,
    where: Condition | None = None,
    entity: str | tuple[str, ...] = "city",
    over: tuple[timedelta, ...] = (10 * SECOND, 45 * SECOND),
) -> FeatureView:
    """Every aggregate and derived feature in one view. Over several windows names get a suffix, except for
    those over the first, which the derived ones read."""
    rolling = isinstance(window, Rolling)
    features = []
    for span in over if rolling else (None,):
        suffix = "" if span is None or span == over[0] else f"_{span // SECOND}s"
        features += [
            Feature(name + suffix, aggregate, unit="x", empty=EMPTY.get(name))
            for name, aggregate in aggregates(span, where).items()
        ]
    every = None if isinstance(window, Rolling) else window.every
    features += [
        Feature(name, value, unit="x", empty=DERIVED_EMPTY.get(name))
        for name, value in derived(every).items()
    ]
    return FeatureView(
        name="rides",
        version=1,
        source=Ride,
        entity=entity,
        disorder=SECOND,
        features=tuple(features),
        ttl=timedelta(minutes=2),
        window=window,
        lookups=(DRIVER,),
    )


@st.composite
def rides(draw: st.DrawFn, *, most: int = 25, fares: int = 1_000) -> list[Ride]:
    """Few entities and times at and around window borders, so that ties, edges and gaps are common."""
    border, number = draw(st.sampled_from(BORDERS)), draw(st.integers(1, most))
    ids = draw(st.permutations([str(n) for n in range(number - 1)] + ["ü|"]))
    return [
        Ride(
            tenant=draw(st.sampled_from(["t", "t|"])),
            id=ids[n],
            city=draw(st.sampled_from(["a", "b|%"])),
            zone=draw(st.sampled_from(["", "a|"])),
            at=from_millis(
                border + draw(st.integers(-9, 9)) * 5_000 + draw(st.sampled_from([0, 0, -1, 1, 2_500]))
            ),
            kind=draw(st.sampled_from([None, *KINDS])),
            fare=draw(st.one_of(st.none(), st.integers(-5, 20), st.integers(-fares, fares))),
            seats=draw(st.integers(0, 3)),
            tip=draw(st.one_of(st.none(), st.integers(-16, 16).map(lambda eighth: eighth / 8))),
            shared=draw(st.sampled_from([None, True, False])),
            driver=draw(st.sampled_from([None, "1", "2", "3"])),
        )
        for n in range(number)
    ]


@st.composite
def drivers(draw: st.DrawFn) -> list[Driver]:
    """Of the drivers 1 to 3 some, each at most once per tenant."""
    return [
        Driver(
            tenant=tenant,
            id=id,
            since=datetime(2020, 1, 1, tzinfo=UTC),
            level=draw(st.sampled_from([None, "gold", "new"])),
            fee=draw(st.one_of(st.none(), st.integers(0, 5))),
            rating=draw(st.one_of(st.none(), st.integers(0, 8).map(lambda eighth: eighth / 8))),
            active=draw(st.sampled_from([None, True, False])),
        )
        for tenant in ("t", "t|")
        for id in ("1", "2", "3")
        if draw(st.booleans())
    ]


_TYPES = {
    "string": pa.string(),
    "long": pa.int64(),
    "int": pa.int32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("ms", tz="UTC"),
    "array": pa.list_(pa.string()),
}


def table(kind: type[Record], records: Sequence[Record]) -> pa.Table:
    schema = pa.schema([(field.name, _TYPES[field.kind]) for field in kind.spec().fields])
    rows = [{name: getattr(one, name) for name in schema.names} for one in records]
    return pa.Table.from_pylist(rows, schema=schema)


def ride(id: str, seconds: float, **more: object) -> Ride:
    """A ride so many seconds after the epoch."""
    given: dict[str, object] = {"tenant": "t", "city": "a", "zone": "z"} | more
    return Ride(id=id, at=from_millis(round(seconds * 1000)), **given)  # type: ignore[arg-type]
