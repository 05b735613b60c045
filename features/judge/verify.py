"""The skew check: streamed feature values against the same view recomputed over the recorded events.

The judge is DuckDB, over the first event per (tenant, id) minus those that the stream marked late: they are
in no window. What equal means says `features.judge.comparison`.
A view built on integers differs only in the last bits of one division and one square root; sums of float
columns depend on the order of addition, and their views declare a wider tolerance.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.clock import to_millis
from core.errors import DeclarationError, UnknownName
from features.judge.comparison import Bools, Differences, FeatureReport, compare
from features.offline.history import compute, first_per_id
from features.times import millis
from features.view import FeatureView
from features.windows import Rolling

LATE = "late"


@dataclass(frozen=True)
class VerifyReport:
    """What was found; all figures count rows: of events in a rolling view, of windows in a windowed one.

    checked: rows whose features were compared. mismatched: those of them with a wrong feature.
    missing: events that never left the stream, or windows that have no row. extra: rows that are no event's
    or no window's, or are an event's or window's under another entity or time. late: events marked too late
    for their windows. by_feature: the same for each feature, in the order of the view.
    rows_evicted: rolling; pairs of an on-time row and a window that it had left when a later row of its
    entity was computed: above 0 says that eviction was tested at all.
    still_open: windowed; windows without a row that the recording ended too early for.
    """

    checked: int
    mismatched: int
    missing: int
    extra: int
    late: int
    by_feature: dict[str, FeatureReport]
    rows_evicted: int = 0
    still_open: int = 0

    @property
    def ok(self) -> bool:
        return self.mismatched == 0 and self.missing == 0 and self.extra == 0

    @property
    def per_feature(self) -> dict[str, int]:
        """Feature -> wrong values."""
        return {name: report.mismatched for name, report in self.by_feature.items()}


def verify(
    view: FeatureView,
    events: pa.Table,
    streamed: pa.Table,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> VerifyReport:
    """Compare a rolling view. `events`: as recorded, repeats included, in order of arrival. `streamed`: the
    enriched rows, of which the first per id counts; its columns are the view's features, tenant, id, entity,
    time, late. Only rows with since <= time < until are looked at; all events are computed with.

    Raises UnknownName for a missing column, DeclarationError for a windowed view.
    """
    if not isinstance(view.window, Rolling):
        raise DeclarationError(
            f"{view.name} has a row per window, the stream one per event",
            where=view.where,
            mend="verify it with features.judge.verify_windows",
        )
    for name in (*view.feature_names, "tenant", "id", *view.entity_fields, view.time, LATE):
        if name not in streamed.column_names:
            raise UnknownName("column", name, streamed.column_names, where=view.where)
    accepted, out = first_per_id(events), first_per_id(streamed)
    row_of = {key: row for row, key in enumerate(_keys(out, ("tenant", "id")))}
    accepted_keys = _keys(accepted, ("tenant", "id"))
    rows = np.array([row_of.get(key, -1) for key in accepted_keys], dtype=np.int64)
    found, asked = rows >= 0, within(accepted.column(view.time), since, until)
    came_out = accepted.filter(pa.array(found))
    theirs = out.take(pa.array(rows[found]))
    asked_out = asked[found]
    same = _same_event(view, came_out, theirs)
    late = np.asarray(theirs.column(LATE).to_pylist(), dtype=bool)

    on_time = came_out.filter(pa.array(~late))
    looked_at = pa.array(asked_out[~late])
    judged = on_time.filter(looked_at)
    differences = differences_of(
        view, compute(view, on_time).filter(looked_at), theirs.filter(pa.array(~late)).filter(looked_at)
    )
    strange = set(row_of) - set(accepted_keys)
    strange_rows = np.array([row_of[key] for key in strange], dtype=np.int64)
    nobodys = int(within(out.column(view.time), since, until)[strange_rows].sum())
    return report_of(
        differences,
        checked=judged.num_rows,
        missing=int((~found & asked).sum()),
        extra=nobodys + int((~same & asked_out).sum()),
        late=int((late & asked_out).sum()),
        rows_evicted=_evicted(view, judged),
    )


def within(times: pa.ChunkedArray, since: datetime | None, until: datetime | None) -> Bools:
    """Which of them are at or after `since` and before `until`."""
    at = np.asarray(pc.fill_null(millis(times), 0).to_numpy(), dtype=np.int64)
    inside = np.ones(len(at), dtype=bool)
    if since is not None:
        inside &= at >= to_millis(since)
    if until is not None:
        inside &= at < to_millis(until)
    return inside


def differences_of(view: FeatureView, ours: pa.Table, theirs: pa.Table) -> dict[str, Differences]:
    """By feature, row against row."""
    return {
        feature.name: compare(
            view.kind(feature), view.tolerance, ours.column(feature.name), theirs.column(feature.name)
        )
        for feature in view.features
    }


def report_of(
    differences: dict[str, Differences],
    *,
    checked: int,
    missing: int,
    extra: int,
    late: int,
    rows_evicted: int = 0,
    still_open: int = 0,
) -> VerifyReport:
    """The report of rows that each have all features."""
    wrong_row = np.zeros(checked, dtype=bool)
    for one in differences.values():
        wrong_row |= one.wrong
    by_feature = {
        name: FeatureReport(checked, int(one.wrong.sum()), missing, extra, one.largest)
        for name, one in differences.items()
    }
    return VerifyReport(
        checked, int(wrong_row.sum()), missing, extra, late, by_feature, rows_evicted, still_open
    )


def _keys(table: pa.Table, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def _same_event(view: FeatureView, ours: pa.Table, theirs: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether entity and time of a row are those of its event."""
    same = pc.equal(millis(ours.column(view.time)), millis(theirs.column(view.time)))
    for name in view.entity_fields:
        same = pc.and_(same, pc.equal(ours.column(name), theirs.column(name)))
    return np.asarray(same.to_pylist(), dtype=bool)


def _evicted(view: FeatureView, rows: pa.Table) -> int:
    """A row has left a window if the entity's newest row is more than the window younger."""
    entities = np.unique(_entity_codes(view, rows), return_inverse=True)[1]
    if not len(entities):
        return 0
    times = np.asarray(millis(rows.column(view.time)).to_numpy(), dtype=np.int64)
    newest = np.full(entities.max() + 1, np.iinfo(np.int64).min)
    np.maximum.at(newest, entities, times)
    age = newest[entities] - times
    return sum(int((age > over // timedelta(milliseconds=1)).sum()) for over in view.windows)


def _entity_codes(view: FeatureView, rows: pa.Table) -> npt.NDArray[np.int64]:
    """One number per (tenant, entity)."""
    codes: dict[tuple[str, ...], int] = {}
    keys = _keys(rows, ("tenant", *view.entity_fields))
    return np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)
