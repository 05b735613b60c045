"""A training from rows to a champion, and what the next ones do: on generated rows, in seconds."""

from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from msgspec.structs import replace

from core.errors import InvalidInput, ModelRefused, Rejected
from features.catalog.card_activity import CARD_ACTIVITY
from features.offline.history import compute
from jobs.sources.generated import LABEL, SOURCE
from jobs.sources.slices import cut
from jobs.training.classification import gate
from jobs.training.fraud import reusable
from jobs.training.report import report_of
from jobs.training.run_folder import RunFolder, RunState, acknowledge
from models import export, export_lightgbm
from models.evaluation import quality
from models.load import load
from models.store import ModelStore
from pipelines.training.configuration import Expectation, Gate, Split
from schemas.catalog.experiments import ExperimentEvent
from schemas.catalog.training import TrainingNotice
from tests.jobs.training.small import EVENTS, QUICK, rows, surroundings, train


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return rows()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def first(table: pa.Table, root: Path) -> RunState:
    weekly = Split(test_rows=2 * EVENTS, gap_days=7.0)
    return train(replace(QUICK, split=weekly), root, table=table, id="first")


@pytest.fixture(scope="module")
def store(first: RunState, root: Path) -> ModelStore:
    return ModelStore(root / "models")


def enriched(table: pa.Table) -> pa.RecordBatch:
    """As the stream would deliver it: the event and its features."""
    features = compute(CARD_ACTIVITY, table)
    for name in CARD_ACTIVITY.feature_names:
        table = table.append_column(name, features.column(name))
    return table.combine_chunks().to_batches()[0]


def test_the_first_model_becomes_the_champion_and_ranks_unseen_rows_as_reported(
    table: pa.Table, store: ModelStore, first: RunState
) -> None:
    assert first.state == "succeeded"
    model = load(store.resolve("fraud"))
    assert model.version == first.version == "1"
    start = table.num_rows - 2 * EVENTS
    batch = enriched(table).slice(start)
    found = quality(table.column(LABEL).to_numpy()[start:], model.score(model.encode(batch)))
    assert found.auc == pytest.approx(first.metrics["auc"], abs=1e-5)
    assert found.average_precision == pytest.approx(first.metrics["average_precision"], abs=1e-4)
    assert found.auc > 0.75


def test_the_view_is_worth_something_here(first: RunState) -> None:
    """The generator puts fraud into the rolling features, so a model without them must be worse."""
    assert first.metrics["auc"] > first.metrics["auc_without_view"] + 0.01


def test_it_learned_only_from_rows_before_the_gap(
    table: pa.Table, store: ModelStore, first: RunState
) -> None:
    slices = cut(table, events=EVENTS)
    trained = store.resolve("fraud").manifest.description.trained_on
    assert trained.last_at < slices.history_starts_at
    assert trained.rows == slices.training.num_rows == report_of(first)["trained_rows"]
    assert report_of(first)["tested_rows"] == 2 * EVENTS


def test_labels_of_the_test_do_not_change_the_model(
    table: pa.Table, store: ModelStore, first: RunState, tmp_path: Path
) -> None:
    start = table.num_rows - 2 * EVENTS
    labels = table.column(LABEL).to_numpy().copy()
    labels[start:] = labels[start:][::-1]
    other = table.set_column(table.schema.get_field_index(LABEL), LABEL, pa.array(labels))
    train(replace(first.configuration, gate=Gate(auc=0.0)), tmp_path, table=other)
    again = ModelStore(tmp_path / "models").resolve("fraud", "1")
    assert again.read("model.onnx") == store.resolve("fraud", "1").read("model.onnx")


def test_the_inputs_are_attributes_and_every_feature(store: ModelStore, first: RunState) -> None:
    model = load(store.resolve("fraud"))
    assert len(model.inputs) == QUICK.inputs
    assert set(CARD_ACTIVITY.feature_names) < set(model.inputs)
    assert not {"tenant", "id", "card_id", "occurred_at", LABEL} & set(model.inputs)


def test_a_model_is_reused_only_where_it_may_be(
    table: pa.Table, store: ModelStore, first: RunState, tmp_path: Path
) -> None:
    slices = cut(table, events=EVENTS)
    assert reusable(SOURCE, slices, store=store) == store.resolve("fraud")
    assert reusable(SOURCE, cut(table, events=500), store=store) is not None
    assert reusable(SOURCE, cut(table, events=6_000), store=store) is None, "it has seen rows of that stream"
    assert reusable(replace(SOURCE, name="other"), slices, store=store) is None
    assert reusable(SOURCE, slices, store=store, view=changed(CARD_ACTIVITY, version=2)) is None
    assert reusable(SOURCE, slices, store=ModelStore(tmp_path)) is None


class Asked:
    """Notes what a run asks of the outside."""

    def __init__(self) -> None:
        self.deployed: list[tuple[str, str, str]] = []
        self.events: list[ExperimentEvent] = []
        self.notices: list[TrainingNotice] = []

    def deploy(self, name: str, version: str, strategy: str) -> None:
        self.deployed.append((name, version, strategy))

    def publish(self, event: ExperimentEvent) -> None:
        self.events.append(event)

    def tell(self, notice: TrainingNotice) -> None:
        self.notices.append(notice)


def test_the_next_good_model_goes_to_staging_with_an_experiment_drafted(
    table: pa.Table, root: Path, store: ModelStore, first: RunState
) -> None:
    asked = Asked()
    around = surroundings(root, deploys=asked, experiments=asked, tells={"here": asked})
    better = replace(QUICK, trees=replace(QUICK.trees, trees=40))
    state = train(better, root, table=table, id="second", around=around)
    assert (state.state, state.version) == ("succeeded", "2")
    assert store.aliases("fraud") == {"champion": "1", "staging": "2"}
    assert asked.deployed == [("fraud", "2", "shadow")]
    (draft,) = asked.events
    assert (draft.kind, draft.champion, draft.candidate) == ("draft", "1", "2")
    compared = state.details("gate")["compared"]["auc"]
    assert draft.metrics["difference.auc"] == compared["candidate"] - compared["champion"]
    (notice,) = asked.notices
    assert (notice.state, notice.version, notice.id) == ("succeeded", "2", "second")
    assert state.told == {"log": "delivered", "here": "delivered"}


def test_a_worse_model_needs_attention_and_is_not_registered(
    table: pa.Table, root: Path, store: ModelStore, first: RunState
) -> None:
    asked, before = Asked(), store.versions("fraud")
    poor = replace(QUICK, trees=replace(QUICK.trees, trees=1, depth=1))
    around = surroundings(root, deploys=asked, tells={"here": asked})
    state = train(poor, root, table=table, id="poor", around=around)
    assert state.state == "needs_attention"
    assert "worse than the champion's" in str(state.problem)
    assert store.versions("fraud") == before
    assert asked.deployed == []
    assert asked.notices[0].state == "needs_attention"
    seen = acknowledge(RunFolder(root, "poor"), by="ann", at=state.changed_at)
    assert seen.acknowledged is not None
    assert seen.acknowledged.by == "ann"


def test_a_model_below_the_floor_needs_attention(table: pa.Table, tmp_path: Path) -> None:
    state = train(replace(QUICK, gate=Gate(auc=0.999)), tmp_path, table=table)
    assert state.state == "needs_attention"
    assert "is below 0.9990" in str(state.problem)
    assert ModelStore(tmp_path / "models").versions("fraud") == []


def test_a_champion_that_knows_the_test_is_not_compared_with(
    table: pa.Table, root: Path, first: RunState, tmp_path: Path
) -> None:
    """It has learned from these rows: its scores on them say nothing."""
    train(replace(QUICK, split=Split(test_rows=400, gap_days=0.0)), tmp_path, table=table, id="late")
    state = train(QUICK, tmp_path, table=table, id="early", promote=True)
    assert "has learned from rows up to" in state.details("gate")["not_compared"]
    aliases = ModelStore(tmp_path / "models").aliases("fraud")
    assert aliases == {"champion": "2", "previous": "1"}


def test_a_difference_within_noise_is_not_worse() -> None:
    """The same ranking with a little noise passes, a clearly worse one does not: 2,000 rows, 10 % frauds."""
    random = np.random.default_rng(5)
    labels = (random.random(2_000) < 0.1).astype(np.int8)
    good = (labels + random.normal(0, 0.7, 2_000)).astype(np.float32)
    alike = (good + random.normal(0, 0.02, 2_000)).astype(np.float32)
    poor = (good + random.normal(0, 1.5, 2_000)).astype(np.float32)
    given = {"draws": 200, "confidence": 0.95, "seed": 1}
    assert gate.worse(gate.compare(labels, good, alike, **given)) == []  # type: ignore[arg-type]
    assert len(gate.worse(gate.compare(labels, good, poor, **given))) == 2  # type: ignore[arg-type]


def test_data_that_breaks_an_expectation_ends_the_run_with_a_report(table: pa.Table, tmp_path: Path) -> None:
    cents = table.column("amount_cents").to_numpy().copy()
    cents[:3] = -1
    bad = table.set_column(table.schema.get_field_index("amount_cents"), "amount_cents", pa.array(cents))
    asked = Asked()
    with pytest.raises(Rejected, match=r"1 of .* expectations are not met") as refused:
        train(QUICK, tmp_path, table=bad, around=surroundings(tmp_path, tells={"here": asked}))
    folder = RunFolder(tmp_path, "run")
    assert refused.value.code == "training_data_refused"
    report = (folder.path / "validation.txt").read_text()
    assert "expect_column_values_to_be_between" in report
    assert f"3 of {table.num_rows} values, e.g. -1, -1, -1" in report
    assert (folder.load().state, folder.load().stage) == ("failed", "validate")
    assert asked.notices[0].state == "failed"


def test_configured_expectations_and_those_of_the_record_are_checked(table: pa.Table, tmp_path: Path) -> None:
    configuration = replace(QUICK, expectations=(Expectation("product", "one_of", values=("W", "C")),))
    twice = pa.concat_tables([table, table.slice(table.num_rows - 1)])
    with pytest.raises(Rejected) as refused:
        train(configuration, tmp_path, table=twice)
    found = " ".join(refused.value.fields.values())
    assert "expect_column_values_to_be_in_set" in found
    assert "expect_compound_columns_to_be_unique" in found


def test_rows_of_a_single_class_are_refused(table: pa.Table, tmp_path: Path) -> None:
    zeros = pa.array(np.zeros(table.num_rows, np.int8))
    single = table.set_column(table.schema.get_field_index(LABEL), LABEL, zeros)
    with pytest.raises(Rejected, match="both classes are needed") as refused:
        train(QUICK, tmp_path, table=single)
    assert refused.value.code == "single_class"


def test_too_few_rows_are_refused(table: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="leave nothing to learn from"):
        train(QUICK, tmp_path, table=table.slice(0, 4_100))


@pytest.mark.parametrize("engine", ["xgboost", "lightgbm"])
def test_an_export_that_differs_is_not_published(
    engine: str, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion that forgets the last tree."""
    if engine == "xgboost":
        right = export.to_onnx
        monkeypatch.setattr(
            export, "to_onnx", lambda b, *, name: right(b[: b.num_boosted_rounds() - 1], name=name)
        )
    else:
        whole = export_lightgbm.to_onnx

        def wrong(booster: object, *, name: str) -> bytes:
            class Shorter:
                def dump_model(self) -> dict[str, object]:
                    dump = booster.dump_model()  # type: ignore[attr-defined]
                    return dump | {"tree_info": dump["tree_info"][:-1]}  # type: ignore[no-any-return]

            return whole(Shorter(), name=name)  # type: ignore[arg-type]

        monkeypatch.setattr(export_lightgbm, "to_onnx", wrong)
    trees = replace(QUICK.trees, engine=engine)
    with pytest.raises(ModelRefused, match="largest difference"):
        train(replace(QUICK, trees=trees), tmp_path, table=table)
    assert ModelStore(tmp_path / "models").versions("fraud") == []
    assert RunFolder(tmp_path, "run").load().stage == "export"


def test_a_lightgbm_model_is_served_like_any_other(table: pa.Table, tmp_path: Path) -> None:
    state = train(replace(QUICK, trees=replace(QUICK.trees, engine="lightgbm")), tmp_path, table=table)
    model = load(ModelStore(tmp_path / "models").resolve("fraud"))
    start = table.num_rows - 2 * EVENTS
    scores = model.score(model.encode(enriched(table).slice(start)))
    found = quality(table.column(LABEL).to_numpy()[start:], scores)
    assert found.auc == pytest.approx(state.metrics["auc"], abs=1e-5)
