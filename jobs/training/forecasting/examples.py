"""Examples of a forecast: at an origin, what a view's features were then, and what came after.

    known values of a series        origin      lead      steps
    |-----------------------------------|----------|===========|
                                                    the target, known at its end

The features are those that could be read at the origin (`features.offline.training`); nothing of the series
after the origin is in an example but its target.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InvalidInput
from features.compile.duckdb import WINDOW_END
from features.offline.reach import look_back
from features.offline.training import FeatureRows, column_of, training_set
from features.view import FeatureView
from features.windows import Rolling
from models.forecasts import Values, seasonal_naive, sums
from operators.forecast import Horizon, Integers
from pipelines.training.configuration import Forecast

AT, KNOWN, SERIES, TARGET, NAIVE = "at", "known_at", "series", "target", "naive"
_MS = timedelta(milliseconds=1)
_TIMES = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True)
class Series:
    """What was counted of an entity, window by window without gaps: the window of `values[0]` ends at
    `first_end` (ms). `begins`: the first value that counts, for the entity was not seen before."""

    tenant: str
    entity: str
    name: str
    first_end: int
    begins: int
    values: Values


def every(view: FeatureView) -> timedelta:
    """The time from one window's end to the next one's."""
    if isinstance(view.window, Rolling):
        raise InvalidInput("a rolling view has no series", where=view.where)
    return view.window.every


def series_of(view: FeatureView, rows: pa.Table, column: str, *, first_at: int, last_at: int) -> list[Series]:
    """The series of a view's rows, by tenant and entity; windows that are not whole within the times of the
    first and last event (ms) are left out. Raises InvalidInput when no window is whole."""
    step = every(view) // _MS
    first_end, last_end = (-(-first_at // step) + 1) * step, last_at // step * step
    if last_end < first_end:
        raise InvalidInput("no window is whole", where=view.where, mend="take more history")
    keys = (
        rows.group_by(["tenant", view.single_entity])
        .aggregate([])
        .sort_by([("tenant", "ascending"), (view.single_entity, "ascending")])
    )
    several = len(pc.unique(keys["tenant"])) > 1
    found = []
    for key in keys.to_pylist():
        tenant, entity = key["tenant"], key[view.single_entity]
        own = rows.filter(
            pc.and_(pc.equal(rows["tenant"], tenant), pc.equal(rows[view.single_entity], entity))
        )
        places = (own[WINDOW_END].cast(pa.int64()).to_numpy() - first_end) // step
        inside = (places >= 0) & (places <= (last_end - first_end) // step)
        if not inside.any():
            continue
        values = np.zeros((last_end - first_end) // step + 1)
        values[places[inside]] = own[column].cast(pa.float64()).to_numpy()[inside]
        name = f"{tenant}/{entity}" if several else entity
        found.append(Series(tenant, entity, name, first_end, int(places[inside].min()), values))
    return found


def examples(view: FeatureView, rows: pa.Table, series: list[Series], forecast: Forecast) -> pa.Table:
    """An example per series, origin and horizon whose target is known, in order of origins.

    at: when the features were read, the origin and the view's disorder bound (timestamp in ms, UTC).
    known_at: the end of the target. series, horizon (strings). lead, steps: of the horizon, in windows.
    weekday (Monday is 0), hour: when the target begins, in UTC. target, naive (float64): what was counted,
    and what the seasonal naive forecast said. And the view's features, without a prefix.

    Left out are origins within the reach of the features from the first window, those where the scale is 0,
    and where there is no seasonal naive forecast. Raises InvalidInput when nothing is left.
    """
    step, back = every(view), look_back(view) // every(view)
    origins = [np.arange(one.begins + back + 1, len(one.values) + 1, dtype=np.int64) for one in series]
    ends = np.concatenate(
        [one.first_end + (at - 1) * (step // _MS) for one, at in zip(series, origins, strict=True)]
    )
    counts = [len(at) for at in origins]
    entities = pa.table(
        {
            "tenant": _repeated([one.tenant for one in series], counts),
            view.single_entity: _repeated([one.entity for one in series], counts),
            AT: pa.array(ends + view.disorder // _MS).cast(_TIMES),
        }
    )
    if not entities.num_rows:
        raise _too_short(view)
    names = {column_of(view, name): name for name in view.feature_names}
    wanted = [f"{view.name}.{name}" for name in view.feature_names]
    features = training_set(entities, wanted, [FeatureRows(view, rows)], time=AT)
    features = features.rename_columns([names.get(name, name) for name in features.column_names])
    known = features.append_column(SERIES, _repeated([one.name for one in series], counts))
    season = timedelta(days=forecast.season_days) // step
    parts = []
    for horizon in (one.asked for one in forecast.horizons):
        there = list(zip(series, origins, strict=True))
        targets = [sums(s.values, at + horizon.lead, at + horizon.lead + horizon.steps) for s, at in there]
        naive = [
            seasonal_naive(
                s.values[s.begins :], at - s.begins, lead=horizon.lead, steps=horizon.steps, season=season
            )
            for s, at in there
        ]
        part = _with_target(known, horizon, ends, step, np.concatenate(targets), np.concatenate(naive))
        parts.append(part.filter(pc.greater(part[forecast.scale], 0)))
    found = pa.concat_tables(parts)
    found = found.sort_by([(AT, "ascending"), (SERIES, "ascending"), (KNOWN, "ascending")]).combine_chunks()
    if not found.num_rows:
        raise _too_short(view)
    return found


def _with_target(
    known: pa.Table,
    horizon: Horizon,
    ends: Integers,
    step: timedelta,
    target: Values,
    naive: Values,
) -> pa.Table:
    columns = {
        "horizon": pa.nulls(len(ends), pa.string()).fill_null(horizon.name),
        **horizon.asked(ends, step),
        TARGET: pa.array(target),
        NAIVE: pa.array(naive),
        KNOWN: pa.array(horizon.ends(ends, step)).cast(_TIMES),
    }
    for name, values in columns.items():
        known = known.append_column(name, values)
    return known.filter(pa.array(np.isfinite(target) & np.isfinite(naive)))


def _repeated(names: list[str], counts: list[int]) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(np.repeat(np.arange(len(names)), counts)))


def _too_short(view: FeatureView) -> InvalidInput:
    return InvalidInput(
        "no example is left: the history is too short for the features and horizons",
        where=view.where,
        mend="take more history",
    )
