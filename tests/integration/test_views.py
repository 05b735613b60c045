"""Every shipped view on every engine that can run it: the stream and the reads say what DuckDB says.

What is tested is what `millstream features verify VIEW --engine ... --request` does: a run of the view's own,
on topics of its own, with the session's services.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from cli.features.verify import verified
from core.errors import InvalidInput
from core.settings import Settings
from features.offline.history import first_per_id
from features.view import FeatureView
from features.windows import Rolling
from jobs.engines import ENGINES, refusals
from jobs.verification import own_run
from jobs.verification.own_run import Run, Running, record
from pipelines.load import load_plan, load_plans
from pipelines.plan import Plan
from stack.local import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

ROWS, SEED, READS = 1_500, 7, 1_000
PLANS = load_plans()
REFUSED = {
    "demand": {"faust": "derived from other features"},
    "forecasts": {"faust": "derived from other features"},
    "hourly_forecasts": {"faust": "derived from other features"},
    "fraud": {"faust": "a row per event and not one per window"},
    "merchants": {"faust": "Hopping"},
    "sales": {},
}
"""Of each pipeline the engines that cannot run its view, and what the reason says."""
AT_LEAST = {
    "demand": 400,
    "forecasts": 400,
    "fraud": 1_400,
    "hourly_forecasts": 500,
    "merchants": 400,
    "sales": 100,
}
"""Of each pipeline so many rows are compared: less would prove little."""


class Recorded:
    """The runs that were made, so that each is made once; it stands in for `own_run.record`."""

    def __init__(self) -> None:
        self.runs: dict[str, list[Run]] = {}

    def record(self, plan: Plan, settings: Settings, running: Running, *, rows: int, seed: int) -> Run:
        run = record(plan, settings, running, rows=rows, seed=seed)
        self.runs.setdefault(plan.pipeline, []).append(run)
        return run


@pytest.fixture(scope="module")
def recorded(stack: Stack) -> Recorded:
    del stack
    return Recorded()


@pytest.fixture
def recording(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    monkeypatch.setattr(own_run, "record", recorded.record)
    return recorded


def asked(plan: Plan) -> dict[str, Any]:
    """The report of `verify` on every engine that can run the view."""
    able = [engine for engine in ENGINES if engine not in refusals(plan)]
    return verified(plan, engines=[*able], request=True, rows=ROWS, seed=SEED)


@pytest.mark.parametrize("name", PLANS)
def test_every_engine_that_can_run_a_view_computes_what_duckdb_does(recording: Recorded, name: str) -> None:
    plan = PLANS[name]
    report = asked(plan)
    assert report["refused"].keys() == REFUSED[name].keys()
    for engine, reason in REFUSED[name].items():
        assert reason in report["refused"][engine]
    assert [run["engine"] for run in report["runs"]] == [e for e in ENGINES if e not in REFUSED[name]]
    for told, run in zip(report["runs"], recording.runs[name], strict=True):
        accepted = first_per_id(run.events).num_rows
        assert run.events.num_rows > accepted >= 0.9 * ROWS, "repeats were sent"
        assert (told["mismatched"], told["missing"], told["extra"]) == (0, 0, 0), told
        assert told["checked"] >= AT_LEAST[name]
        assert 0 < told["late"] <= 0.05 * ROWS
        check_features(told["features"], plan.view, told["checked"])
        check_reads(told["requests"], plan.view)
        if isinstance(plan.view.window, Rolling):
            assert told["checked"] == accepted - told["late"]
            assert told["rows_evicted"] > 1_000
            out = Counter(keys(run.streamed, "tenant", "id"))
            assert set(out) == set(keys(run.events, "tenant", "id"))
            assert set(out.values()) == {1}, "each event comes out once"
        else:
            windows = Counter(keys(run.streamed, "tenant", "entity", "window_end"))
            assert set(windows.values()) == {1}, "each window comes out once"
        assert told["ok"]
    assert report["ok"]


def check_features(found: dict[str, Any], view: FeatureView, checked: int) -> None:
    assert tuple(found) == view.feature_names
    for name, figures in found.items():
        wrong = (figures["mismatched"], figures["missing"], figures["extra"])
        assert wrong == (0, 0, 0), (name, figures)
        assert figures["checked"] == checked, (name, figures)


def check_reads(found: dict[str, Any], view: FeatureView) -> None:
    """Reads at random times, out of the stack's Redis: of entities that were, and that never were."""
    assert found["reads"] == READS
    assert 0 < found["unknown"] < READS / 2
    assert tuple(found["features"]) == view.feature_names
    for name, figures in found["features"].items():
        wrong = (figures["mismatched"], figures["missing"], figures["extra"])
        assert wrong == (0, 0, 0), (name, figures)
        assert figures["checked"] >= READS / 2, (name, figures)


def keys(rows: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows.column(name).to_pylist() for name in names), strict=True)


def changed(run: Run, feature: str, change: Callable[[Any], Any]) -> Run:
    """One value of one streamed row, on its way out."""
    column = run.streamed.column(feature)
    values = column.to_pylist()
    row = next(row for row, value in enumerate(values) if value and not _late(run.streamed, row))
    values[row] = change(values[row])
    at = run.streamed.column_names.index(feature)
    return replace(
        run, streamed=run.streamed.set_column(at, feature, pa.chunked_array([pa.array(values, column.type)]))
    )


def _late(rows: pa.Table, row: int) -> bool:
    return "late" in rows.column_names and bool(rows.column("late")[row].as_py())


def lost(run: Run) -> Run:
    """Without the rows of one event, or of one window."""
    first, *_ = keys(run.streamed, "tenant", "id")
    kept = [key != first for key in keys(run.streamed, "tenant", "id")]
    return replace(run, streamed=run.streamed.filter(pa.array(kept)))


@pytest.mark.parametrize(
    ("name", "feature"), [("fraud", "amount_sum_24h"), ("sales", "revenue_cents"), ("demand", "searches")]
)
def test_a_row_that_was_changed_or_lost_on_the_way_is_found(
    recording: Recorded, monkeypatch: pytest.MonkeyPatch, name: str, feature: str
) -> None:
    plan = load_plan(name)
    if name not in recording.runs:
        asked(plan)
    good = recording.runs[name][0]
    for bad, figure in (
        (changed(good, feature, lambda value: value + 1), "mismatched"),
        (lost(good), "missing"),
    ):
        monkeypatch.setattr(own_run, "record", lambda *_, bad=bad, **__: bad)
        report = verified(plan, engines=["flink"], rows=ROWS, seed=SEED)
        (told,) = report["runs"]
        assert not report["ok"]
        assert not told["ok"]
        assert told[figure] == 1, told
        assert told["checked"] >= AT_LEAST[name]
        if figure == "mismatched":
            wrong = [of for of, figures in told["features"].items() if figures["mismatched"]]
            assert wrong == [feature]


@pytest.mark.parametrize("name", [name for name, refused in REFUSED.items() if refused])
def test_an_engine_that_cannot_run_a_view_is_no_way_to_verify_it(name: str) -> None:
    """Said before anything is started."""
    with pytest.raises(InvalidInput, match=REFUSED[name]["faust"]):
        verified(load_plan(name), engines=["faust"])


def test_nothing_is_refused_unseen() -> None:
    assert PLANS.keys() == REFUSED.keys() == AT_LEAST.keys(), "say here what a new pipeline's engines are"
