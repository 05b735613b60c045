"""The skew check: streamed feature values against the same view recomputed over the recorded events.

The judge is DuckDB, over the first event per (tenant, id) minus those that the stream marked late: they are
in no window. Integers must be equal, doubles within the view's relative tolerance, nulls where nulls are.
A view built on integers differs only in the last bits of one division and one square root; sums of float
columns depend on the order of addition, and their views declare a wider tolerance.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import DeclarationError, UnknownName
from features.history import compute, first_per_id
from features.times import millis
from features.view import FeatureView
from features.windows import Rolling

LATE = "late"


@dataclass(frozen=True)
class VerifyReport:
    """What was found; all figures count rows.

    checked: on-time rows whose features were compared. mismatched: those of them with a wrong feature.
    missing: events that never left the stream. extra: ids that left the stream and are no event's, and
    rows of an event under another entity or time. late: rows marked too late for their windows.
    rows_evicted: pairs of an on-time row and a window that it had left when a later row of its entity was
    computed: above 0 says that eviction was tested at all. per_feature: feature -> wrong values.
    """

    checked: int
    mismatched: int
    missing: int
    extra: int
    late: int
    rows_evicted: int
    per_feature: dict[str, int]

    @property
    def ok(self) -> bool:
        return self.mismatched == 0 and self.missing == 0 and self.extra == 0


def verify(view: FeatureView, events: pa.Table, streamed: pa.Table) -> VerifyReport:
    """Compare. `events`: as recorded, repeats included, in order of arrival. `streamed`: the enriched rows,
    of which the first per id counts; its columns are the view's features, tenant, id, entity, time, late.

    Raises UnknownName for a missing column, DeclarationError for a windowed view.
    """
    if not isinstance(view.window, Rolling):
        raise DeclarationError(
            f"{view.name} has a row per window, the stream one per event",
            where=view.where,
            mend="verify a rolling view",
        )
    for name in (*view.feature_names, "tenant", "id", *view.entity_fields, view.time, LATE):
        if name not in streamed.column_names:
            raise UnknownName("column", name, streamed.column_names, where=view.where)
    accepted, out = first_per_id(events), first_per_id(streamed)
    row_of = {key: row for row, key in enumerate(_keys(out, ("tenant", "id")))}
    accepted_keys = _keys(accepted, ("tenant", "id"))
    rows = np.array([row_of.get(key, -1) for key in accepted_keys], dtype=np.int64)
    found = rows >= 0
    came_out = accepted.filter(pa.array(found))
    theirs = out.take(pa.array(rows[found]))
    same = _same_event(view, came_out, theirs)
    late = np.asarray(theirs.column(LATE).to_pylist(), dtype=bool)

    on_time = pa.array(~late)
    judged = came_out.filter(on_time)
    wrong = _compare(view, compute(view, judged), theirs.filter(on_time))
    wrong_row = np.zeros(judged.num_rows, dtype=bool)
    for values in wrong.values():
        wrong_row |= values
    return VerifyReport(
        checked=judged.num_rows,
        mismatched=int(wrong_row.sum()),
        missing=int((~found).sum()),
        extra=len(row_of.keys() - set(accepted_keys)) + int((~same).sum()),
        late=int(late.sum()),
        rows_evicted=_evicted(view, judged),
        per_feature={name: int(values.sum()) for name, values in wrong.items()},
    )


def _keys(table: pa.Table, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def _same_event(view: FeatureView, ours: pa.Table, theirs: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether entity and time of a row are those of its event."""
    same = pc.equal(millis(ours.column(view.time)), millis(theirs.column(view.time)))
    for name in view.entity_fields:
        same = pc.and_(same, pc.equal(ours.column(name), theirs.column(name)))
    return np.asarray(same.to_pylist(), dtype=bool)


def _compare(view: FeatureView, ours: pa.Table, theirs: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
    """Per feature, which rows differ."""
    out = {}
    for feature in view.features:
        mine, other = ours.column(feature.name), theirs.column(feature.name)
        null_here, null_there = _mask(pc.is_null(mine)), _mask(pc.is_null(other))
        differ = null_here != null_there
        both = ~null_here & ~null_there
        kind = view.kind(feature)
        if kind in ("string", "boolean"):
            unequal = _mask(pc.fill_null(pc.not_equal(mine, other), False))
        elif kind == "long":
            unequal = _filled(mine, pa.int64()) != _filled(other, pa.int64())
        else:
            x, y = _filled(mine, pa.float64()), _filled(other, pa.float64())
            largest = np.maximum(np.abs(x), np.abs(y))
            unequal = ~(np.abs(x - y) <= view.tolerance * largest)  # a NaN is unequal to everything
        out[feature.name] = differ | (both & unequal)
    return out


def _filled(column: pa.ChunkedArray, kind: pa.DataType) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = pc.fill_null(column.cast(kind), 0).to_numpy()
    return values


def _mask(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(column.to_numpy(), dtype=bool)


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
