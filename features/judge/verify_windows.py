"""The skew check of windowed views: feature rows of the stream against DuckDB over the recorded events.

The judge computes the view over the first event per (tenant, id) minus those on the late topic. Of the rows
of one window that with the highest sequence counts, as everywhere.
"""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.clock import from_millis, to_millis
from core.errors import DeclarationError, UnknownName
from features.feature_rows import ENTITY, SEQUENCE, WINDOW_END, WINDOW_START, field_name
from features.judge.comparison import Bools
from features.judge.verify import VerifyReport, differences_of, report_of, within
from features.offline.history import compute, first_per_id
from features.times import millis
from features.view import FeatureView
from features.windows import Rolling
from schemas.keys import entity_of

Key = tuple[str | int, ...]
"""tenant, the fields of the entity, the end of the window in ms."""


def verify_windows(
    view: FeatureView,
    events: pa.Table,
    streamed: pa.Table,
    *,
    late: pa.Table | None = None,
    lookups: dict[str, pa.Table] | None = None,
    watermark: datetime | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> VerifyReport:
    """Compare a windowed view.

    events: as recorded, repeats included, in order of arrival. streamed: feature rows, with the columns of
    `features.feature_rows.feature_record`, `id` not needed; of equal sequences the first row counts. late:
    the events of the late topic; tenant and id are looked at. lookups: the reference tables by name.
    watermark: how far the stream had come; windows that end later need not have a row, and are compared if
    they have one. By default the newest event's time minus the view's disorder bound.
    Only windows with since <= end < until are looked at; all events are computed with.

    Raises UnknownName for a missing column, DeclarationError for a rolling view.
    """
    if isinstance(view.window, Rolling):
        raise DeclarationError(
            f"{view.name} has a row per event, not one per window",
            where=view.where,
            mend="verify it with features.judge.verify",
        )
    fields = tuple(field_name(name) for name in view.entity_fields)
    for name in ("tenant", ENTITY, *fields, WINDOW_START, WINDOW_END, SEQUENCE, *view.feature_names):
        if name not in streamed.column_names:
            raise UnknownName("column", name, streamed.column_names, where=view.where)
    accepted = first_per_id(events)
    counted, late_events, nobodys = without_late(accepted, late)
    ours = compute(view, counted, lookups=lookups)
    ours = ours.filter(pa.array(within(ours.column(WINDOW_END), since, until)))
    theirs = newest_rows(view, streamed)
    theirs = theirs.filter(pa.array(within(theirs.column(WINDOW_END), since, until)))

    row_of = {key: row for row, key in enumerate(_keys(theirs, fields))}
    wanted = _keys(ours, view.entity_fields)
    rows = np.array([row_of.get(key, -1) for key in wanted], dtype=np.int64)
    found = rows >= 0
    judged, matched = ours.filter(pa.array(found)), theirs.take(pa.array(rows[found]))
    ends = np.asarray(millis(ours.column(WINDOW_END)).to_numpy(), dtype=np.int64)
    open_ = ~found & (ends > to_millis(watermark or watermark_of(view, accepted)))
    strange = len(row_of.keys() - set(wanted)) + int((~_same_window(matched, judged, fields)).sum())
    return report_of(
        differences_of(view, judged, matched),
        checked=judged.num_rows,
        missing=int((~found & ~open_).sum()),
        extra=strange + nobodys,
        late=late_events,
        still_open=int(open_.sum()),
    )


def without_late(accepted: pa.Table, late: pa.Table | None) -> tuple[pa.Table, int, int]:
    """The events that are not on the late topic, how many are, and how many ids there are no event's."""
    if late is None:
        return accepted, 0, 0
    ids = set(zip(late.column("tenant").to_pylist(), late.column("id").to_pylist(), strict=True))
    keys = zip(accepted.column("tenant").to_pylist(), accepted.column("id").to_pylist(), strict=True)
    is_late = np.array([key in ids for key in keys], dtype=bool)
    count = int(is_late.sum())
    return accepted.filter(pa.array(~is_late)), count, len(ids) - count


def without_corrections(rows: pa.Table) -> tuple[pa.Table, int]:
    """The stream's own rows, which know nothing of late events, and how many others there are."""
    own = rows.filter(pc.equal(rows.column(SEQUENCE), 0))
    return own, rows.num_rows - own.num_rows


def newest_rows(view: FeatureView, rows: pa.Table) -> pa.Table:
    """Of each window the row with the highest sequence, the first among equal ones."""
    fields = tuple(field_name(name) for name in view.entity_fields)
    best: dict[Key, tuple[int, int]] = {}
    for row, (key, sequence) in enumerate(
        zip(_keys(rows, fields), rows.column(SEQUENCE).to_pylist(), strict=True)
    ):
        known = best.get(key)
        if known is None or sequence > known[0]:
            best[key] = (sequence, row)
    return rows.take(pa.array([row for _, row in best.values()], pa.int64()))


def _keys(rows: pa.Table, fields: tuple[str, ...]) -> list[Key]:
    columns = [rows.column(name).to_pylist() for name in ("tenant", *fields)]
    return list(zip(*columns, millis(rows.column(WINDOW_END)).to_pylist(), strict=True))


def _same_window(theirs: pa.Table, ours: pa.Table, fields: tuple[str, ...]) -> Bools:
    """Whether a row has the start of its window and the entity of its fields."""
    starts = pc.equal(millis(theirs.column(WINDOW_START)), millis(ours.column(WINDOW_START))).to_pylist()
    parts = zip(*(theirs.column(name).to_pylist() for name in fields), strict=True)
    rows = zip(starts, theirs.column(ENTITY).to_pylist(), parts, strict=True)
    return np.array([bool(start) and entity == entity_of(part) for start, entity, part in rows], dtype=bool)


def watermark_of(view: FeatureView, events: pa.Table) -> datetime:
    """How far a stream has come at least that has read these events."""
    newest = pc.max(millis(events.column(view.time))).as_py()
    return from_millis(newest or 0) - view.disorder if events.num_rows else from_millis(0)
