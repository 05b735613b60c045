"""Two views, rows for their training sets, and the naive oracle: a scan of all rows for each question."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from core.clock import from_millis
from features.offline.training import FeatureRows, training_set
from features.view import (
    Count,
    Feature,
    FeatureView,
    Last,
    Max,
    Mean,
    Rolling,
    Sum,
    Tumbling,
    feature,
)
from tests.features.rides import SECOND, Ride

MS = timedelta(milliseconds=1)
TIMES = pa.timestamp("ms", tz="UTC")

DEMAND = FeatureView(
    name="demand",
    version=1,
    source=Ride,
    entity=("city", "zone"),
    disorder=2 * SECOND,
    features=(
        Feature("rides", Count(), unit="rides", empty=0),
        Feature("fares", Sum("fare"), unit="cents"),
        Feature("tips", Mean("tip"), unit="cents", empty=-1, ttl=15 * SECOND),
        Feature("last_kind", Last("kind"), unit="kind", empty="none'|", ttl=5 * SECOND),
        Feature("was_shared", Last("shared"), unit="yes or no", empty=False),
        Feature("doubled", feature("rides") * 2, unit="rides", empty=0),
    ),
    ttl=30 * SECOND,
    window=Tumbling(10 * SECOND),
)
ACTIVITY = FeatureView(
    name="activity",
    version=1,
    source=Ride,
    entity="city",
    disorder=2 * SECOND,
    features=(
        Feature("rides", Count(over=10 * SECOND), unit="rides", empty=0),
        Feature("fares", Sum("fare", over=40 * SECOND), unit="cents", empty=0),
        Feature("highest", Max("fare", over=40 * SECOND), unit="cents", ttl=20 * SECOND),
        Feature("each", feature("fares") / feature("rides"), unit="cents"),
    ),
    ttl=60 * SECOND,
    window=Rolling(),
)
TYPES = {"long": pa.int64(), "double": pa.float64(), "string": pa.string(), "boolean": pa.bool_()}
ALL = [f"{view.name}.{one}" for view in (DEMAND, ACTIVITY) for one in view.feature_names]
Row = dict[str, Any]


def schema(view: FeatureView) -> pa.Schema:
    time, more = (
        ("at", ("late", pa.bool_())) if view is ACTIVITY else ("window_end", ("sequence", pa.int64()))
    )
    features = [(one.name, TYPES[view.kind(one)]) for one in view.features]
    keys = [(name, pa.string()) for name in ("tenant", *view.entity_fields)]
    return pa.schema([*keys, (time, TIMES), *features, more])


def rows_of(view: FeatureView, rows: Sequence[Row]) -> FeatureRows:
    return FeatureRows(view, pa.Table.from_pylist(list(rows), schema=schema(view)))


ENTITIES = pa.schema(
    [
        ("label", pa.int32()), ("zone", pa.string()), ("event_time", TIMES), ("city", pa.string()),
        ("tenant", pa.string()), ("weights", pa.list_(pa.float32())),
    ]
)  # fmt: skip


def entities(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=ENTITIES)


def asked(seconds: float, **more: object) -> Row:
    given: Row = {"tenant": "t", "city": "a", "zone": "z", "label": 1, "weights": [0.5]}
    return given | {"event_time": at(seconds)} | more


def at(seconds: float) -> datetime:
    return from_millis(round(1000 * seconds))


def window(end: float, **more: object) -> Row:
    given: Row = {"tenant": "t", "city": "a", "zone": "z", "window_end": at(end), "rides": 7, "sequence": 0}
    return given | more


def event(seconds: float, **more: object) -> Row:
    return {"tenant": "t", "city": "a", "at": at(seconds), "rides": 7, "fares": 70} | more


def oracle(rows: Sequence[Row], sources: Sequence[tuple[FeatureView, Sequence[Row]]]) -> list[Row]:
    out = []
    for row in rows:
        new = dict(row)
        for view, known in sources:
            new |= naive_values(view, row, known)
        for view, known in sources:
            new[f"{view.name}__time"] = naive_time(view, row, known)
        out.append(new)
    return out


def naive_newest(view: FeatureView, row: Row, known: Sequence[Row]) -> tuple[Row | None, timedelta]:
    """The feature row that counts, and its age."""
    best, order = None, None
    for one in known:
        if any(one[key] != row[key] for key in ("tenant", *view.entity_fields)) or one.get("late"):
            continue
        time = one["at"] if view is ACTIVITY else one["window_end"]
        readable = time if view is ACTIVITY else time + view.disorder
        sequence = one.get("sequence")
        this = (time, sequence is not None, sequence or 0)
        if readable <= row["event_time"] and (order is None or this > order):
            best, order = one, this
    return best, row["event_time"] - order[0] if order else timedelta.max


def naive_good(view: FeatureView, one: Feature, age: timedelta) -> bool:
    if view is ACTIVITY:
        limit = {"rides": 10, "fares": 40, "highest": 20, "each": 40}[one.name]
        return age <= limit * SECOND
    return age <= (one.ttl or view.ttl)


def naive_values(view: FeatureView, row: Row, known: Sequence[Row]) -> Row:
    newest, age = naive_newest(view, row, known)
    out = {}
    for one in view.features:
        value = newest.get(one.name) if newest and naive_good(view, one, age) else None
        out[f"{view.name}__{one.name}"] = one.empty if value is None else value
    return out


def naive_time(view: FeatureView, row: Row, known: Sequence[Row]) -> datetime | None:
    newest, age = naive_newest(view, row, known)
    if newest is None or not any(naive_good(view, one, age) for one in view.features):
        return None
    return newest["at"] if view is ACTIVITY else newest["window_end"]


def only(row: Row, view: FeatureView, known: Sequence[Row], *names: str) -> list[Any]:
    wanted = [f"{view.name}.{name}" for name in names]
    found = training_set(entities([row]), wanted, [rows_of(view, known)]).to_pylist()[0]
    return [found[f"{view.name}__{name}"] for name in names]
