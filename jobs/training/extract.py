"""The rows of a training: events with their label, and each view's features as they were at that time."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InvalidInput, Rejected
from core.settings import settings
from features.offline.history import compute, first_per_id
from features.offline.tabular import Tabular
from features.offline.training import FeatureRows, column_of, training_set
from jobs.sources import card_fraud, generated
from jobs.training.workspace import Workspace
from models.manifest import DataSource
from pipelines.offline import DATE, POSITION_COLUMNS
from pipelines.recorded import tables

DOWNLOADS = {"fraud": (card_fraud.load, card_fraud.SOURCE)}
"""The public data of a pipeline: how it is loaded, and what it is."""


def extract(space: Workspace) -> dict[str, Any]:
    """Leaves the rows, in time order, back to `history_days` before the newest.

    Raises Rejected when only one class is there, Unavailable when the data cannot be had.
    """
    source = space.configuration.source.kind
    if space.given is not None:
        rows, origin = space.given
        offsets: dict[str, Any] = {}
    elif source == "recorded":
        rows, origin, offsets = _recorded(space)
    else:
        rows, origin = _loaded(space)
        offsets = {}
    rows = recent(rows, space.time, space.configuration.history_days)
    if source != "recorded" or space.given is not None:
        space.progress("compute features over history", None)
        for view in space.views:
            features = compute(view, rows)
            for name in view.feature_names:
                rows = rows.append_column(name, features.column(name))
    positives = _both_classes(rows, space)
    space.keep_rows(rows)
    times = rows.column(space.time)
    return {
        "source": origin.name,
        "licence": origin.licence,
        "rows": rows.num_rows,
        "positives": positives,
        "first_at": times[0].as_py().isoformat(),
        "last_at": times[-1].as_py().isoformat(),
        "offsets": offsets,
    }


def _loaded(space: Workspace) -> tuple[pa.Table, DataSource]:
    source, pipeline = space.configuration.source, space.configuration.pipeline
    if source.kind == "generated":
        space.progress("generate card payments", None)
        return generated.generate(source.rows), generated.SOURCE
    if pipeline not in DOWNLOADS:
        raise InvalidInput(
            f"no public data belongs to pipeline {pipeline}", mend='set source.kind to "recorded"'
        )
    load, origin = DOWNLOADS[pipeline]
    return load(progress=space.progress), origin


def _recorded(space: Workspace) -> tuple[pa.Table, DataSource, dict[str, Any]]:
    """Events with a verdict, and the features that were readable at their times."""
    target, plan = space.configuration.target, space.plan
    with TemporaryDirectory(prefix="training-") as folder:
        space.progress("read recorded events", None)
        events = tables(plan.source, settings(), Path(folder))
        labels = tables(plan.labels, settings(), Path(folder))
        enriched = tables(plan.enriched, settings(), Path(folder))
        rows = first_per_id(whole(events.tables, plan.source.name))
        rows = _labelled(rows, whole(labels.tables, plan.labels.name), space)
        if not rows.num_rows:
            raise InvalidInput(
                f"no event of {plan.source.name} has a verdict {' or '.join(target.classes)}",
                mend="decide reviews, publish labels, or set source.unlabelled",
            )
        rows = rows.sort_by([(space.time, "ascending"), ("tenant", "ascending"), ("id", "ascending")])
        space.progress("join features as of each event", None)
        view = plan.view
        found = training_set(
            rows,
            [f"{view.name}.{name}" for name in view.feature_names],
            [FeatureRows(view, whole(enriched.tables, plan.enriched.name))],
            time=space.time,
        )
        names = {column_of(view, name): name for name in view.feature_names}
        rows = found.rename_columns([names.get(name, name) for name in found.column_names])
    ends = {plan.source.name: events.ends, plan.labels.name: labels.ends, plan.enriched.name: enriched.ends}
    offsets = {topic: {str(at): end for at, end in known.items()} for topic, known in ends.items()}
    return rows, DataSource(f"recorded events of {plan.source.name}", "the operator's own"), offsets


def _labelled(rows: pa.Table, verdicts: pa.Table, space: Workspace) -> pa.Table:
    """The rows with the label of their newest verdict; see `Source` for those without."""
    target, source = space.configuration.target, space.configuration.source
    newest = verdicts.sort_by([("decided_at", "descending"), ("reviewer", "ascending")])
    newest = first_per_id(newest).select(["tenant", "id", "verdict"])
    number = rows.append_column("__row", pa.array(range(rows.num_rows), pa.int64()))
    words = number.select(["tenant", "id", "__row"]).join(newest, ["tenant", "id"]).sort_by("__row")
    place = pc.index_in(words.column("verdict"), pa.array(target.classes, pa.string()))
    if source.unlabelled == "negative":
        place = pc.if_else(pc.is_null(words.column("verdict")), 0, place)
    labelled = rows.append_column(target.column, place.cast(pa.int8()))
    return labelled.filter(pc.is_valid(labelled.column(target.column)))


def whole(recorded: Iterable[Tabular], topic: str) -> pa.Table:
    """What is recorded of a topic as one table, without the columns of its storage."""
    from features.offline.out_of_core import DEFAULT, connected
    from features.offline.tabular import register

    parts = []
    with connected(DEFAULT, where=topic) as connection:
        for number, table in enumerate(recorded):
            register(connection, f"part_{number}", table, where=topic)
            parts.append(connection.sql(f"SELECT * FROM part_{number}").to_arrow_table())
    if not parts:
        raise InvalidInput(f"nothing is recorded of {topic}", mend="run its pipeline first")
    stored = {DATE, *POSITION_COLUMNS}
    names = [name for name in parts[0].column_names if name not in stored]
    aligned = [part.select(names).cast(parts[0].select(names).schema) for part in parts]
    return pa.concat_tables(aligned).combine_chunks()


def recent(rows: pa.Table, time: str, days: int) -> pa.Table:
    """The rows of the last `days`, of rows in time order. Raises InvalidInput where there are none."""
    if not rows.num_rows:
        raise InvalidInput("the source has no rows", mend="record some events first")
    times = rows.column(time)
    oldest = times[-1].as_py() - timedelta(days=days)
    kept = pc.sum(pc.greater(times, pa.scalar(oldest, times.type))).as_py()
    return rows.slice(rows.num_rows - kept)


def _both_classes(rows: pa.Table, space: Workspace) -> int:
    target = space.configuration.target
    if target.column not in rows.column_names:
        raise InvalidInput(
            f"the rows have no column {target.column!r}",
            where="target.column",
            mend="name the label's column",
        )
    counts = {one["values"]: one["counts"] for one in rows.column(target.column).value_counts().to_pylist()}
    if set(counts) != {0, 1}:
        raise Rejected(
            f"the labels are {sorted(map(str, counts))}: both classes are needed, as 0 and 1, and no null",
            fields={"/target": f"both {' and '.join(target.classes)} must be in the data"},
            where=f"{rows.num_rows} rows",
            mend="widen the history, or wait for labels",
            code="single_class",
        )
    return int(counts[1])
