"""The stage that turns events into series and examples, each view's features as they were at the origin."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.clock import to_millis
from core.errors import InvalidInput
from core.settings import settings
from features.offline.history import compute, first_per_id
from features.view import FeatureView
from jobs.sources import baskets, demand, generated_baskets, rides
from jobs.training.extract import recent, whole
from jobs.training.forecasting.examples import Series, every, examples, series_of
from jobs.training.workspace import Workspace
from models.manifest import DataSource
from pipelines.recorded import tables
from pipelines.training.configuration import Forecast
from pipelines.training.reading import plan_of
from schemas.catalog.user_events import USER_EVENTS

COUNTS = "series.parquet"


def extract(space: Workspace) -> dict[str, Any]:
    """Leaves the series and the examples. Raises InvalidInput where the history is too short, Unavailable
    when the data cannot be had."""
    view, forecast = view_of(space), forecast_of(space)
    events, origin, offsets = _events(space)
    events = recent(events, view.time, space.configuration.history_days)
    times = events.column(view.time)
    first_at, last_at = times[0].as_py(), times[-1].as_py()
    space.progress("compute features over history", None)
    rows = compute(view, events)
    if forecast.total is not None:
        rows = pa.concat_tables([rows, compute(view, _together(events, view, forecast.total))])
    count, received = space.configuration.target.column, events.num_rows
    del events, times
    series = series_of(view, rows, count, first_at=to_millis(first_at), last_at=to_millis(last_at))
    found = examples(view, rows, series, forecast)
    _keep_series(space, series)
    space.keep_rows(found)
    return {
        "source": origin.name,
        "licence": origin.licence,
        "events": received,
        "rows": found.num_rows,
        "series": [one.name for one in series],
        "every_hours": every(view).total_seconds() / 3_600,
        "first_at": first_at.isoformat(),
        "last_at": last_at.isoformat(),
        "offsets": offsets,
    }


def view_of(space: Workspace) -> FeatureView:
    """The view whose windows are forecast."""
    return space.views[0]


def forecast_of(space: Workspace) -> Forecast:
    found = space.configuration.forecast
    if found is None:
        raise InvalidInput("no [forecast]", where=f"run {space.state.id}", mend="begin a new run")
    return found


def kept_series(space: Workspace) -> list[Series]:
    """The series that `extract` left."""
    table = pq.read_table(space.data / COUNTS)
    return [Series(**(row | {"values": np.array(row["values"])})) for row in table.to_pylist()]


def _keep_series(space: Workspace, series: list[Series]) -> None:
    columns = {name: [getattr(one, name) for one in series] for name in Series.__dataclass_fields__}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    space.folder.write(f"data/{COUNTS}", bytes(sink.getvalue().to_pybytes()))


def _events(space: Workspace) -> tuple[pa.Table, DataSource, dict[str, Any]]:
    if space.given is not None:
        return *space.given, {}
    if space.configuration.source.kind == "recorded":
        return _recorded(space)
    return *_loaded(space), {}


def _loaded(space: Workspace) -> tuple[pa.Table, DataSource]:
    """The public data of the view's windows: a shop's bookings by region, or a city's rides by the hour."""
    given = space.configuration
    if plan_of(given).source.name != USER_EVENTS.name:
        raise InvalidInput(
            f"no public data belongs to the events of {given.pipeline}", mend='set source.kind to "recorded"'
        )
    if given.source.kind == "generated":
        space.progress("generate baskets", None)
        made = generated_baskets.generate(given.source.rows)
        return demand.user_events(made), generated_baskets.SOURCE
    if every(view_of(space)).total_seconds() < 86_400:
        hours = rides.hours(progress=space.progress)
        return rides.user_events(hours, days=given.history_days), rides.SOURCE
    real, origin = baskets.baskets(progress=space.progress)
    return demand.user_events(real), origin


def _recorded(space: Workspace) -> tuple[pa.Table, DataSource, dict[str, Any]]:
    """The pipeline's events, of its offline table and its topic; the first per id."""
    topic, time = plan_of(space.configuration).source, view_of(space).time
    with TemporaryDirectory(prefix="training-") as folder:
        space.progress("read recorded events", None)
        events = tables(topic, settings(), Path(folder))
        rows = first_per_id(whole(events.tables, topic.name)).sort_by(time)
    offsets = {topic.name: {str(at): end for at, end in events.ends.items()}}
    return rows, DataSource(f"recorded events of {topic.name}", "the operator's own"), offsets


def _together(events: pa.Table, view: FeatureView, name: str) -> pa.Table:
    """The events as if all were of one entity. Raises InvalidInput where one has its name."""
    place = events.schema.get_field_index(view.single_entity)
    if pc.any(pc.equal(events.column(place), name)).as_py():
        raise InvalidInput(
            f"there is a {view.single_entity} {name!r}", where="forecast.total", mend="give another name"
        )
    column = pa.nulls(events.num_rows, pa.string()).fill_null(name)
    return events.set_column(place, view.single_entity, column)
