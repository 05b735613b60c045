"""Training on little generated data: the way of the real one, in seconds."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from core.errors import MillstreamError, ModelRefused
from features.catalog.card_activity import CARD_ACTIVITY
from features.offline.history import compute
from jobs.sources.generated import LABEL, SOURCE, generate
from jobs.sources.slices import cut
from jobs.training import fraud
from jobs.training.fraud import FraudTraining, TrainingReport, reusable, train_fraud
from jobs.training.trees import TreeSettings
from models.evaluation import quality
from models.load import load
from models.store import ModelStore

SMALL = TreeSettings(trees=25, depth=4, learning_rate=0.3, threads=1)
SETTINGS = FraudTraining(events=2_000, inputs=40, trees=SMALL, selection=replace(SMALL, trees=8))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return generate(40_000, seed=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def told() -> list[tuple[str, float | None]]:
    return []


@pytest.fixture(scope="module")
def report(table: pa.Table, store: ModelStore, told: list[tuple[str, float | None]]) -> TrainingReport:
    return train_fraud(
        table,
        source=SOURCE,
        settings=SETTINGS,
        store=store,
        progress=lambda what, done: told.append((what, done)),
    )


def enriched(table: pa.Table) -> pa.RecordBatch:
    """As the stream would deliver it: the event and its features."""
    features = compute(CARD_ACTIVITY, table)
    for name in CARD_ACTIVITY.feature_names:
        table = table.append_column(name, features.column(name))
    return table.combine_chunks().to_batches()[0]


def test_the_champion_ranks_unseen_rows_as_reported(
    table: pa.Table, store: ModelStore, report: TrainingReport
) -> None:
    model = load(store.resolve("fraud"))
    assert (model.version, model.digest) == (report.version, report.digest)
    start = table.num_rows - 2 * SETTINGS.events
    batch = enriched(table).slice(start)
    scores = model.score(model.encode(batch))
    found = quality(table.column(LABEL).to_numpy()[start:], scores)
    assert found.auc == pytest.approx(report.auc, abs=1e-5)
    assert found.average_precision == pytest.approx(report.average_precision, abs=1e-4)
    assert found.auc > 0.75


def test_the_view_is_worth_something_here(report: TrainingReport) -> None:
    """The generator puts fraud into the rolling features, so a model without them must be worse."""
    assert report.auc > report.auc_without_view + 0.01


def test_it_learned_only_from_rows_before_the_history(table: pa.Table, report: TrainingReport) -> None:
    slices = cut(table, events=SETTINGS.events)
    assert report.trained_until < slices.history_starts_at
    assert report.trained_rows == slices.training.num_rows
    assert report.tested_rows == 2 * SETTINGS.events


def test_labels_of_the_stream_do_not_change_the_model(
    table: pa.Table, store: ModelStore, report: TrainingReport, tmp_path: Path
) -> None:
    start = table.num_rows - 2 * SETTINGS.events
    labels = table.column(LABEL).to_numpy().copy()
    labels[start:] = labels[start:][::-1]
    other = table.set_column(table.schema.get_field_index(LABEL), LABEL, pa.array(labels))
    again = ModelStore(tmp_path)
    train_fraud(other, source=SOURCE, settings=SETTINGS, store=again)
    assert again.resolve("fraud").read("model.onnx") == store.resolve("fraud").read("model.onnx")


def test_the_inputs_are_attributes_and_every_feature(store: ModelStore, report: TrainingReport) -> None:
    model = load(store.resolve("fraud"))
    assert len(model.inputs) == report.inputs == SETTINGS.inputs
    assert set(CARD_ACTIVITY.feature_names) < set(model.inputs)
    assert not {"tenant", "id", "card_id", "occurred_at", LABEL} & set(model.inputs)


def test_a_record_that_came_too_late_is_scored_without_features(
    table: pa.Table, store: ModelStore, report: TrainingReport
) -> None:
    batch = enriched(table).slice(0, 50)
    for name in CARD_ACTIVITY.feature_names:
        index = batch.schema.get_field_index(name)
        batch = batch.set_column(index, name, pa.nulls(50, batch.schema.field(name).type))
    model = load(store.resolve("fraud"))
    scores = model.score(model.encode(batch))
    assert np.isfinite(scores).all()


def test_progress_is_told_to_the_end(told: list[tuple[str, float | None]], report: TrainingReport) -> None:
    assert ("train the fraud model", 1.0) in told
    assert ("train without the view", 1.0) in told
    assert report.to_dict()["auc"] == report.auc
    msgspec.json.encode(report.to_dict())


def test_a_model_is_reused_only_where_it_may_be(
    table: pa.Table, store: ModelStore, report: TrainingReport, tmp_path: Path
) -> None:
    slices = cut(table, events=SETTINGS.events)
    assert reusable(SOURCE, slices, store=store) == store.resolve("fraud")
    assert reusable(SOURCE, cut(table, events=500), store=store) is not None
    assert reusable(SOURCE, cut(table, events=6_000), store=store) is None, "it has seen rows of that stream"
    assert reusable(msgspec.structs.replace(SOURCE, name="other"), slices, store=store) is None
    changed = replace(CARD_ACTIVITY, version=2)
    assert reusable(SOURCE, slices, store=store, view=changed) is None
    assert reusable(SOURCE, slices, store=ModelStore(tmp_path)) is None


def test_an_export_that_differs_is_not_published(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fraud.to_onnx

    def wrong(booster: fraud.xgboost.Booster, *, name: str) -> bytes:
        return right(booster[: booster.num_boosted_rounds() - 1], name=name)

    monkeypatch.setattr(fraud, "to_onnx", wrong)
    store = ModelStore(tmp_path)
    with pytest.raises(ModelRefused, match="largest difference"):
        train_fraud(table, source=SOURCE, settings=SETTINGS, store=store)
    assert store.versions("fraud") == []
    with pytest.raises(MillstreamError):
        store.resolve("fraud")


def test_features_over_history_do_not_look_ahead(table: pa.Table) -> None:
    """Cutting the future off changes no feature of the past."""
    until = 5_000
    last = table.column("occurred_at")[until - 1].as_py()
    while table.column("occurred_at")[until].as_py() - last <= timedelta(0):
        until += 1
    whole = compute(CARD_ACTIVITY, table.slice(0, 8_000)).slice(0, until)
    assert compute(CARD_ACTIVITY, table.slice(0, until)).equals(whole.combine_chunks())
