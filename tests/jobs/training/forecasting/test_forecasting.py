"""A forecasting from events to a champion: on generated bookings, in seconds."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from msgspec.structs import replace

from core.clock import SystemClock
from core.errors import ModelRefused, Rejected
from features.catalog.demand_history import DEMAND_DAYS
from jobs.sources.commerce import REGIONS
from jobs.sources.generated_baskets import SOURCE
from jobs.training.beginning import Asked, begin
from jobs.training.forecasting import gate as gates
from jobs.training.forecasting.backtest import FORECASTS
from jobs.training.forecasting.extract import kept_series
from jobs.training.forecasting.prepare import prepared
from jobs.training.report import lines_of, report_of
from jobs.training.run_folder import RunFolder, RunState
from jobs.training.runner import carry_out
from jobs.training.workspace import Workspace
from models import export_lightgbm
from models.load import load
from models.store import ModelStore
from pipelines.training.configuration import Configuration, Expectation, Gate
from tests.jobs.training.forecasting.small import FORECAST, QUICK, SEARCHED, market
from tests.jobs.training.small import surroundings

HORIZONS = ("next_week", "next_day")


def train(configuration: Configuration, root: Path, table: pa.Table, *, id: str = "run") -> RunState:
    folder = RunFolder(root, id)
    begin(configuration, folder, Asked(), SystemClock())
    return carry_out(folder, surroundings(root), given=(table, SOURCE))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return market()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forecasting")


@pytest.fixture(scope="module")
def first(table: pa.Table, root: Path) -> RunState:
    """Beside Prophet, and with what only an unfinished run has kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "clear", lambda _: None)
        return train(replace(QUICK, forecast=replace(FORECAST, prophet=True)), root, table, id="first")


def test_the_first_good_model_becomes_the_champion(root: Path, first: RunState) -> None:
    assert (first.state, first.version) == ("succeeded", "1")
    stored = ModelStore(root / "models").resolve("demand")
    known = stored.manifest.description
    assert known.view_digests == {"demand_days": DEMAND_DAYS.digest}
    assert known.metrics["mape"] < known.metrics["mape_seasonal_naive"]
    assert known.metrics["mape"] < 0.15
    assert load(stored).signature.output.high > 1e30


def test_every_series_and_horizon_is_reported_as_it_was_forecast(root: Path, first: RunState) -> None:
    """MAPE by a plain loop over the forecasts that were kept and the series that were counted."""
    space = Workspace(RunFolder(root, "first"), surroundings(root), SystemClock())
    series = {one.name: one for one in kept_series(space)}
    with np.load(space.data / FORECASTS) as kept:
        forecasts = {name: kept[name] for name in kept.files}
    rows = space.rows.take(forecasts["rows"]).to_pylist()
    report = report_of(first)
    models = ("lightgbm", "xgboost", "prophet", "seasonal_naive")
    assert {(one["series"], one["horizon"]) for one in report["series"]} == {
        (name, horizon) for name in (*REGIONS, "all") for horizon in HORIZONS
    }
    for one in report["series"]:
        for model in models:
            shares = []
            for at, row in enumerate(rows):
                if (row["series"], row["horizon"]) != (one["series"], one["horizon"]):
                    continue
                own = series[one["series"]]
                first_day = (
                    (int(row["known_at"].timestamp() * 1_000) - own.first_end) // 86_400_000
                    + 1
                    - row["steps"]
                )
                actual = sum(own.values[first_day : first_day + row["steps"]])
                if actual:
                    shares.append(abs(forecasts[model][at] - actual) / actual)
            assert one[model]["mape"] == pytest.approx(sum(shares) / len(shares), abs=1e-5)
        ours = one[report["chosen"]]["mape"]
        assert one["passes"] == (ours < 0.15 and ours < one["seasonal_naive"]["mape"])
    assert sorted(report["pass"] + report["do_not_pass"]) == sorted(
        f"{one['series']}: {one['horizon']}" for one in report["series"]
    )
    assert len(report["origins"]) == 2


def test_the_report_says_when_prophet_wins(first: RunState) -> None:
    report, text = report_of(first), "\n".join(lines_of(first))
    for one in report["series"]:
        better = one["prophet"]["mape"] < one[report["chosen"]]["mape"]
        line = f"prophet is better than lightgbm at {one['horizon']} of {one['series']}:"
        assert (line in text) == better
    assert json.dumps(report)


def test_the_champion_forecasts_counts_of_columns(root: Path, first: RunState) -> None:
    """As a worker would: the examples' columns in, bookings out, near what came."""
    space = Workspace(RunFolder(root, "first"), surroundings(root), SystemClock())
    model = load(ModelStore(root / "models").resolve("demand"))
    batch = space.rows.combine_chunks().to_batches()[0]
    made = model.score(model.encode(batch)).astype(np.float64)
    targets = space.rows["target"].to_numpy()
    assert abs(made.sum() / targets.sum() - 1) < 0.05
    assert np.corrcoef(made, targets)[0, 1] > 0.98
    assert (made >= 0).all()


def test_a_model_that_is_not_better_needs_attention(table: pa.Table, tmp_path: Path) -> None:
    state = train(replace(QUICK, gate=Gate(mape=0.001)), tmp_path, table)
    assert state.state == "needs_attention"
    assert "is not below 0.1%" in str(state.problem)
    assert ModelStore(tmp_path / "models").versions("demand") == []
    assert report_of(state)["pass"] == []
    assert "DOES NOT PASS" in "\n".join(lines_of(state))
    assert {one.name for one in state.done if one.skipped} == {
        "fit", "export", "register", "deploy", "experiment",
    }  # fmt: skip


def test_an_export_that_differs_is_not_published(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion that takes another column for the scale."""
    right = export_lightgbm.to_quantity

    def wrong(booster: object, *, name: str, scale: object) -> bytes:
        factors = scale.factors  # type: ignore[attr-defined]
        return right(booster, name=name, scale=type(scale)((factors[0] + 1, factors[1])))  # type: ignore[arg-type, call-arg]

    monkeypatch.setattr(export_lightgbm, "to_quantity", wrong)
    with pytest.raises(ModelRefused, match="largest difference"):
        train(QUICK, tmp_path, table)
    assert ModelStore(tmp_path / "models").versions("demand") == []


def test_examples_that_break_an_expectation_end_the_run(table: pa.Table, tmp_path: Path) -> None:
    few = Expectation("target", "between", high=10.0)
    with pytest.raises(Rejected, match=r"1 of .* expectations are not met"):
        train(replace(QUICK, expectations=(few,)), tmp_path, table)
    assert RunFolder(tmp_path, "run").load().stage == "validate"


class Cut(Exception):
    """Where a run is cut short."""


def test_a_search_cut_in_the_middle_gives_the_same(table: pa.Table, tmp_path: Path) -> None:
    whole = train(SEARCHED, tmp_path / "whole", table)
    folder = RunFolder(tmp_path / "cut", "run")
    begin(SEARCHED, folder, Asked(), SystemClock())

    def cut(what: str, done: float | None) -> None:
        if what == "search" and done:
            raise Cut

    around = surroundings(tmp_path / "cut", progress=cut)
    with pytest.raises(Cut):
        carry_out(folder, around, given=(table, SOURCE))
    assert (folder.load().stage, folder.load().trials_done) == ("search", 2)
    prepared.cache_clear()
    state = carry_out(folder, surroundings(tmp_path / "cut"))
    trials = [(tmp_path / name / "runs/run/trials.json").read_bytes() for name in ("whole", "cut")]
    assert trials[0] == trials[1]
    assert state.details("evaluate") == whole.details("evaluate")
    models = [ModelStore(tmp_path / name / "models").resolve("demand") for name in ("whole", "cut")]
    assert models[0].read("model.onnx") == models[1].read("model.onnx")
    assert {one["settings"]["engine"] for one in json.loads(trials[0])} == {"xgboost", "lightgbm"}


def test_a_later_model_is_compared_where_the_champion_has_not_learned(
    table: pa.Table, tmp_path: Path
) -> None:
    early = table.slice(0, int(table.num_rows * 0.9))
    train(QUICK, tmp_path, early, id="early")
    state = train(QUICK, tmp_path, table, id="later")
    found = state.details("gate")
    assert found["champion"] == "1"
    assert found["compared_rows"] > 0
    assert found["compared"]["mape"]["difference"] == pytest.approx(
        found["compared"]["mape"]["candidate"] - found["compared"]["mape"]["champion"]
    )
    assert ModelStore(tmp_path / "models").aliases("demand") == {"champion": "1", "staging": "2"}
    again = train(QUICK, tmp_path, early, id="again")
    assert "known to be new to the champion" in again.details("gate")["not_compared"]
    assert gates.below(again.details("evaluate")["horizons"], "lightgbm", 0.15) == []
