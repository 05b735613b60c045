"""The check of request-time reads: what the online store answers at random times, against DuckDB then.

The recorded events are fed to a store of the check's own, in memory or in Redis, and it is read as time goes
on: near events, when they leave a window, long after the last one, for entities that never were, of every
tenant. `rolling_requests` and `windowed_requests` say how, for the two shapes of views; what equal means says
`comparison`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import redis

from features.feature_rows import WINDOW_END
from features.judge.comparison import FeatureReport, compare
from features.judge.requests import Answered
from features.judge.rolling_requests import RollingRequests
from features.judge.verify_windows import watermark_of, without_late
from features.judge.windowed_requests import WindowedRequests
from features.offline.history import compute, first_per_id
from features.online.packed import fits
from features.online.reading_columns import TYPES
from features.view import Feature, FeatureView, Value
from features.windows import Rolling


@dataclass(frozen=True)
class RequestReport:
    """What was found.

    reads: requests that were made, each of all features. unknown: those for an entity of which there was
    nothing by then. by_feature: in the order of the view; `missing` are values that read as missing or
    expired and were there, `extra` the other way round. truncated: values that were told to be inexact; they
    are not compared and not in `checked`.
    """

    reads: int
    unknown: int
    truncated: int
    by_feature: dict[str, FeatureReport]

    @property
    def ok(self) -> bool:
        return all(report.ok for report in self.by_feature.values())


def verify_requests(
    view: FeatureView,
    events: pa.Table,
    *,
    rows: pa.Table | None = None,
    late: pa.Table | None = None,
    lookups: Mapping[str, pa.Table] | None = None,
    watermark: datetime | None = None,
    client: redis.Redis | None = None,
    reads: int = 1_000,
    seed: int = 0,
) -> RequestReport:
    """Make so many reads and compare them, the same ones for the same seed.

    events: as recorded, repeats included, in order of arrival. client: a Redis to keep the store in, under
    tenants of its own, which are gone afterwards; None: in memory. For a windowed view also rows: the feature
    rows of the stream (None: the judge's own, so that only the store is checked), late: the events of the
    late topic, lookups: the reference tables, watermark: how far the stream had come (see
    `features.judge.verify_windows`); windows that end later take no part.

    Raises UnknownName for a missing column, DeclarationError for a view without an online form.
    """
    accepted = first_per_id(events)
    if isinstance(view.window, Rolling):
        return _report(view, RollingRequests(view, accepted, client).ask(reads, seed))
    counted, _, _ = without_late(accepted, late)
    right = compute(view, counted, lookups=lookups)
    if rows is not None:
        closed = watermark or watermark_of(view, accepted)
        right, rows = (
            table.filter(pc.less_equal(table.column(WINDOW_END), closed)) for table in (right, rows)
        )
    return _report(view, WindowedRequests(view, right, rows, client).ask(reads, seed))


def _report(view: FeatureView, answers: Sequence[Answered]) -> RequestReport:
    truncated = 0
    by_feature = {}
    for feature in view.features:
        by_feature[feature.name], inexact = _of_feature(view, feature, answers)
        truncated += inexact
    return RequestReport(len(answers), sum(not one.known for one in answers), truncated, by_feature)


def _of_feature(
    view: FeatureView, feature: Feature, answers: Sequence[Answered]
) -> tuple[FeatureReport, int]:
    """The report, and how many values were truncated."""
    name, kind = feature.name, view.kind(feature)
    ours: list[Value] = []
    theirs: list[Value] = []
    missing = extra = wrong = truncated = 0
    for one in answers:
        status, value = one.statuses[name], one.values[name]
        if status == "truncated":
            truncated += 1
        elif one.there[name] and status in ("missing", "expired"):
            missing += 1
        elif not one.there[name] and status in ("fresh", "stale"):
            extra += 1
        elif value is not None and not fits(kind, value):
            wrong += 1
        else:
            ours.append(one.right[name])
            theirs.append(value)
    columns = [pa.chunked_array([pa.array(values, TYPES[kind])]) for values in (ours, theirs)]
    differences = compare(kind, view.tolerance, *columns)
    mismatched = wrong + int(differences.wrong.sum())
    return FeatureReport(len(ours) + wrong, mismatched, missing, extra, differences.largest), truncated
