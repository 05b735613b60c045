"""Forecasts of a worker: what the training's own examples are forecast to be, row by row of the stream."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from core.clock import ManualClock
from features.catalog.demand_history import DEMAND_DAYS
from features.feature_rows import row_id
from features.offline.history import compute
from jobs.sources.generated_baskets import SOURCE
from jobs.training.beginning import Asked, begin
from jobs.training.run_folder import RunFolder
from jobs.training.runner import carry_out
from jobs.training.workspace import Workspace
from jobs.worker.batch import BatchWork, Outputs
from jobs.worker.forecasting import DeclaredForecast, Forecasting
from jobs.worker.held import BUCKETS, LiveRoute, Meter, Service, points
from jobs.worker.inputs import Inputs
from models.load import LoadedModel, load
from operators.dedupe import Dedupe
from operators.error_rates import ErrorRates
from operators.forecast import Horizon
from operators.ports import Matrix
from pipelines.catalog.forecasts import forecasts
from pipelines.model_compatibility import compatibility
from pipelines.plan import ForecastPlan
from schemas.catalog.forecasts import Forecast
from schemas.codec import RecordCodec, arrow_schema
from schemas.registry import SchemaRegistry
from tests.jobs.training.forecasting.small import QUICK, market
from tests.jobs.training.small import surroundings
from tests.jobs.worker.payments import Formula
from tests.jobs.worker.test_batch import Message
from tests.schemas.memory_registry import MemoryRegistry

PLAN = forecasts.plan()
assert isinstance(PLAN, ForecastPlan)
assert PLAN.rows.record is not None
REGISTRY = SchemaRegistry("http://registry", auto_register=True, transport=MemoryRegistry().transport())
ROWS: RecordCodec[Any] = RecordCodec(PLAN.rows.record, REGISTRY, "rows-value")
RESULTS: RecordCodec[Forecast] = RecordCodec(Forecast, REGISTRY, "results-value")
DAY = timedelta(days=1)


def feature_rows(events: pa.Table) -> pa.RecordBatch:
    """What the stream sends of these events."""
    rows = compute(DEMAND_DAYS, events)
    regions, ends = rows["region"], rows["window_end"].to_pylist()
    ids = [row_id(region, end, 0) for region, end in zip(regions.to_pylist(), ends, strict=True)]
    rows = rows.append_column("id", pa.array(ids)).append_column("entity", regions)
    rows = rows.append_column("sequence", pa.array([0] * len(ids), pa.int64()))
    (batch,) = rows.select(ROWS.columns.names).cast(arrow_schema(ROWS.spec)).combine_chunks().to_batches()
    return batch


@pytest.fixture(scope="module")
def events() -> pa.Table:
    return market()


@pytest.fixture(scope="module")
def space(events: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished training, with the examples that it learned from."""
    root: Path = tmp_path_factory.mktemp("served")
    folder, clock = RunFolder(root, "run"), ManualClock()
    begin(QUICK, folder, Asked(), clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "clear", lambda _: None)
        state = carry_out(folder, surroundings(root), given=(events, SOURCE))
    assert state.version == "1"
    return Workspace(folder, surroundings(root), clock)


@pytest.fixture(scope="module")
def model(space: Workspace) -> LoadedModel:
    return load(space.around.store.resolve("demand", "champion"))


def route(scorer: Any, **more: Any) -> LiveRoute:
    meter = Meter()
    meter.calls = 100
    return LiveRoute(scorer.version, scorer, meter, **more)


def worked(rows: pa.RecordBatch, service: Service) -> tuple[Outputs, list[Forecast]]:
    clock = ManualClock()
    declared = DeclaredForecast(PLAN.pipeline, PLAN.scale, PLAN.horizons, every=PLAN.every, unit=PLAN.unit)
    made = BatchWork(
        decoder=ROWS,
        encoder=RESULTS,
        dedupe=Dedupe(),
        scoring=Forecasting(declared, clock=clock),
        clock=clock,
        rates=ErrorRates("forecasts", clock),
    )
    messages = [Message(number, value) for number, value in enumerate(ROWS.encode_batch(rows))]
    outputs = made.work(Inputs.of(messages), service)  # type: ignore[arg-type]
    return outputs, [RESULTS.decode(value) for value in outputs.values]


def test_what_is_forecast_on_the_stream_is_what_the_training_s_examples_are(
    events: pa.Table, space: Workspace, model: LoadedModel
) -> None:
    """Bit by bit, of every example whose day had events; the others have no row at that time."""
    examples = space.rows
    (batch,) = examples.combine_chunks().to_batches()
    values = model.score(model.encode(batch)).tolist()
    known = {
        (row["series"], row["at"], row["horizon"]): (value, row["known_at"])
        for row, value in zip(examples.to_pylist(), values, strict=True)
    }
    outputs, made = worked(feature_rows(events), Service((route(model),)))
    assert not outputs.refused
    compared = 0
    for one in made:
        assert (one.unit, one.model, one.model_version, one.pipeline) == (
            "bookings",
            "demand",
            "1",
            "forecasts",
        )
        assert one.window_end - one.window_start == DAY
        assert [expected.horizon for expected in one.expected] == ["next_week", "next_day"]
        for expected, days in zip(one.expected, (7, 1), strict=True):
            assert (expected.begins_at, expected.ends_at) == (one.window_end, one.window_end + days * DAY)
            example = known.get((one.entity, one.window_end + DEMAND_DAYS.disorder, expected.horizon))
            if example is not None:
                assert (expected.value, expected.ends_at) == example
                compared += 1
    regions = sum(series != "all" for series, _, _ in known)
    assert compared > 0.99 * regions > 1_000


def test_a_region_without_bookings_for_so_long_has_no_forecast(model: LoadedModel, events: pa.Table) -> None:
    rows = feature_rows(events).slice(0, 40)
    names = rows.schema.names
    scale = [0.0 if at % 4 == 0 else value for at, value in enumerate(rows[PLAN.scale].to_pylist())]
    rows = rows.set_column(names.index(PLAN.scale), rows.schema.field(PLAN.scale), pa.array(scale))
    outputs, made = worked(rows, Service((route(model),)))
    expected = [at for at, value in enumerate(scale) if value]
    assert (outputs.indexes, outputs.refused) == (expected, [])
    assert [one.id for one in made] == [rows["id"][at].as_py() for at in expected]
    outputs, made = worked(rows.take([0, 4]), Service((route(model),)))
    assert (outputs.indexes, made) == ([], [])


class Broken:
    """The model, but for what it says of one horizon of some rows: less than nothing."""

    def __init__(self, model: LoadedModel, version: str, least: float) -> None:
        self.model, self.version, self.least = model, version, least

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def score(self, matrix: Matrix) -> Matrix:
        outputs = self.model.score(matrix)
        names = [item.name for item in self.model.signature.inputs]
        steps, scale = matrix[:, names.index("steps")], matrix[:, names.index("bookings_28d")]
        return np.where((steps == 7) & (scale > self.least), np.float32(-1.0), outputs)


def test_a_row_fails_whole_and_the_version_before_it_answers(model: LoadedModel, events: pa.Table) -> None:
    rows = feature_rows(events).slice(300, 60)
    scales = rows[PLAN.scale].to_pylist()
    least = sorted(scales)[30]
    bad = [at for at, scale in enumerate(scales) if scale > least]
    broken = Broken(model, "2", float(np.float32(least)))
    outputs, made = worked(rows, Service((route(broken),)))
    assert [refused.index for refused in outputs.refused] == bad
    assert "not a number from 0" in outputs.refused[0].reason
    assert sorted([*outputs.indexes, *bad]) == list(range(60))
    outputs, made = worked(rows, Service((route(broken),), backup=route(model)))
    assert sorted(outputs.indexes) == list(range(60))
    assert not outputs.refused
    for index, one in zip(outputs.indexes, made, strict=True):
        fell = index in bad
        assert one.id == rows["id"][index].as_py()
        assert (one.model_version, one.degraded) == (("1", True) if fell else ("2", False))
        assert (one.level == "previous_version") == fell


def test_the_trained_version_fits_its_pipeline_and_no_other(space: Workspace) -> None:
    stored = space.around.store.resolve("demand", "champion")
    assert compatibility(stored, PLAN) == ()
    longer = tuple(Horizon(one.name, one.steps + 1, one.lead) for one in PLAN.horizons)
    for changed, reason in (
        (replace(PLAN, horizons=longer), "did not learn horizon next_week: 8 after 0"),
        (replace(PLAN, scale="bookings_14d"), "in units of bookings_28d"),
        (replace(PLAN, counted="bookings_7d"), "in bookings; bookings_7d is in bookings per day"),
    ):
        assert any(reason in finding.what for finding in compatibility(stored, changed))


@pytest.mark.parametrize(
    ("bounds", "outputs", "steps"),
    [
        ((0.0, 1.0), [0.0, 0.049, 0.051, 0.999, 1.0], [0, 0, 1, 19, 20]),
        ((-50.0, 50.0), [-50.0, -45.1, -44.9, 49.0, 50.0], [0, 0, 1, 19, 20]),
        ((0.0, 3e38), [0.0, 0.9, 1.1, 2.9, 3.1, 1e5, 2e6, 3e38], [0, 0, 1, 1, 2, 16, 20, 20]),
    ],
)
def test_a_sketch_has_room_for_every_output(
    bounds: tuple[float, float], outputs: list[float], steps: list[int]
) -> None:
    meter = Meter()
    scorer = Formula()
    scorer.output_range = bounds
    meter.add(points(np.array(outputs, np.float32), scorer), 0, 1.0)
    counted = np.bincount(steps, minlength=BUCKETS + 1)
    assert np.array_equal(meter.lately(0.0).buckets, counted)
