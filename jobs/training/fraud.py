"""Training the fraud model: split by time, features by the view itself, verified before it is champion.

The features of `card_activity` over the recorded events come from the same view that Flink runs, compiled to
DuckDB; each row sees only rows up to its own time. The model learns from everything before the history part
(see `jobs.sources.slices`), the 7 days before the stream are left out, and quality is measured on the rows
that the demo streams. A second model without the features tells what they are worth.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import xgboost

from core.errors import MillstreamError, ModelRefused
from core.settings import settings as given
from features.catalog.card_activity import CARD_ACTIVITY
from features.offline.history import compute
from features.view import FeatureView
from jobs.sources import card_fraud, generated
from jobs.sources.progress import Progress, silent
from jobs.sources.slices import Slices, cut
from jobs.training import inputs as inputs_of
from jobs.training.trees import Labels, TreeSettings, fit, strongest
from models import golden
from models.encode import Encoder, Matrix
from models.engines.onnx import OnnxEngine
from models.evaluation import Quality, quality
from models.export import boundaries, parity, to_onnx
from models.load import load
from models.manifest import DataRange, DataSource, Description
from models.registry import open_registry
from models.signature import Input
from models.store import BOOSTER, CHAMPION, GOLDEN, MODEL, SIGNATURE, Registry, StoredModel

MODEL_NAME = "fraud"
LABEL = card_fraud.LABEL
EVENTS = 20_000
GENERATED_ROWS = 150_000
INPUTS = 119
PARITY = 1e-5
GOLDEN_ROWS = 512

_TREES = TreeSettings()
_SELECTION = TreeSettings(trees=60, depth=6, learning_rate=0.2)
_PARITY_ROWS = 20_000


@dataclass(frozen=True)
class FraudTraining:
    """`events` per demo phase are kept unseen, at the least. `inputs` counts attributes and features."""

    events: int = EVENTS
    inputs: int = INPUTS
    trees: TreeSettings = _TREES
    selection: TreeSettings = _SELECTION


@dataclass(frozen=True)
class TrainingReport:
    """What came out. Qualities are of the unseen later rows; times in seconds; `parity` is the largest
    difference between ONNX Runtime and XGBoost in probability."""

    model: str
    version: str
    digest: str
    data: str
    licence: str
    trained_rows: int
    trained_until: datetime
    tested_rows: int
    inputs: int
    auc: float
    average_precision: float
    auc_without_view: float
    average_precision_without_view: float
    parity: float
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"trained_until": self.trained_until.isoformat()}


def train(
    *,
    from_generator: bool = False,
    settings: FraudTraining = FraudTraining(),
    store: Registry | None = None,
    progress: Progress = silent,
) -> TrainingReport:
    """Load the data (the real one, or the generator's), train, publish, make it the champion."""
    table, source = recorded(from_generator=from_generator, events=settings.events, progress=progress)
    return train_fraud(table, source=source, settings=settings, store=store, progress=progress)


def recorded(
    *, from_generator: bool = False, events: int = EVENTS, progress: Progress = silent
) -> tuple[pa.Table, DataSource]:
    """The recorded events with labels, and what they are."""
    if from_generator:
        progress("generate card payments", None)
        # on top of what the demo streams and loads, enough to learn from
        return generated.generate(GENERATED_ROWS + max(2 * events - 2 * EVENTS, 0)), generated.SOURCE
    return card_fraud.load(progress=progress), card_fraud.SOURCE


def reusable(
    source: DataSource, slices: Slices, *, store: Registry, view: FeatureView = CARD_ACTIVITY
) -> StoredModel | None:
    """The champion, where it may score this stream: it learned from the same data, with the same meaning of
    the view, and only from rows before the history part. None where it may not or there is none."""
    try:
        stored = store.resolve(MODEL_NAME)
    except MillstreamError:
        return None
    known = stored.manifest.description
    if known.data != source or known.view_digests != {view.name: view.digest}:
        return None
    learned = known.trained_on
    return stored if learned is not None and learned.last_at < slices.history_starts_at else None


def train_fraud(
    table: pa.Table,
    *,
    source: DataSource,
    settings: FraudTraining = FraudTraining(),
    store: Registry | None = None,
    view: FeatureView = CARD_ACTIVITY,
    progress: Progress = silent,
) -> TrainingReport:
    """Train on `table` (the record's columns and `is_fraud`, in time order), publish, make it champion.

    Raises ModelRefused when the export does not agree with XGBoost; then nothing is published.
    """
    clock = _Stopwatch()
    slices = cut(table, events=settings.events)
    learned, start = slices.training.num_rows, table.num_rows - 2 * settings.events
    progress("compute features over history", None)
    features = compute(view, table)
    rows = table
    for name in view.feature_names:
        rows = rows.append_column(name, features.column(name))
    clock.lap("features")

    progress("encode", None)
    attributes, of_view = inputs_of.candidates(view, slices.training)
    everything = list(inputs_of.signature([*attributes, *of_view]).inputs)
    matrix = Encoder(inputs_of.signature(everything)).encode_table(rows)
    labels: Labels = table.column(LABEL).to_numpy()
    unseen = _Part(matrix[start:], labels[start:])
    clock.lap("encode")

    kept = _chosen(everything, of_view, _Part(matrix[:learned], labels[:learned]), settings, progress)
    clock.lap("select")
    chosen = [everything[at] for at in kept]
    seen = _Part(np.ascontiguousarray(matrix[:learned, kept]), labels[:learned])
    booster = fit(seen.matrix, seen.labels, settings.trees, progress=progress, what="train the fraud model")
    clock.lap("train")
    later = _Part(np.ascontiguousarray(unseen.matrix[:, kept]), unseen.labels)
    with_view = quality(later.labels, booster.inplace_predict(later.matrix))

    names = {item.name for item in of_view}
    without = [at for at, item in enumerate(chosen) if item.name not in names]
    ablation = _ablation(seen, later, without, settings, progress)
    clock.lap("train_without_view")

    progress("export and verify", None)
    stored, worst = _publish(
        store or open_registry(given()),
        booster,
        chosen,
        later.matrix,
        rows.slice(start),
        Description(
            data=source,
            trained_on=_range(slices.training),
            tested_on=_range(table.slice(start)),
            views={view.name: view.version},
            view_digests={view.name: view.digest},
            metrics={
                "auc": with_view.auc,
                "average_precision": with_view.average_precision,
                "auc_without_view": ablation.auc,
                "average_precision_without_view": ablation.average_precision,
            },
            parameters=settings.trees.parameters() | {"trees": settings.trees.trees},
            libraries={name: version(name) for name in ("xgboost-cpu", "onnx", "onnxruntime")},
        ),
    )
    clock.lap("export")
    return TrainingReport(
        model=stored.name,
        version=stored.version,
        digest=stored.manifest.digest,
        data=source.name,
        licence=source.licence,
        trained_rows=learned,
        trained_until=_range(slices.training).last_at,
        tested_rows=with_view.rows,
        inputs=len(chosen),
        auc=with_view.auc,
        average_precision=with_view.average_precision,
        auc_without_view=ablation.auc,
        average_precision_without_view=ablation.average_precision,
        parity=worst,
        seconds=clock.laps,
    )


@dataclass(frozen=True)
class _Part:
    matrix: Matrix
    labels: Labels


def _chosen(
    everything: Sequence[Input],
    of_view: Sequence[Input],
    seen: _Part,
    settings: FraudTraining,
    progress: Progress,
) -> list[int]:
    """Positions to keep: all features, and the attributes that gained most in the first half of training."""
    half = len(seen.labels) // 2
    quick = replace(settings.selection, threads=settings.trees.threads)
    booster = fit(seen.matrix[:half], seen.labels[:half], quick, progress=progress, what="choose inputs")
    names = {item.name for item in of_view}
    attributes = [at for at, item in enumerate(everything) if item.name not in names]
    features = [at for at, item in enumerate(everything) if item.name in names]
    return sorted([*strongest(booster, attributes, max(settings.inputs - len(features), 1)), *features])


def _ablation(
    seen: _Part, later: _Part, without: list[int], settings: FraudTraining, progress: Progress
) -> Quality:
    booster = fit(
        np.ascontiguousarray(seen.matrix[:, without]),
        seen.labels,
        settings.trees,
        progress=progress,
        what="train without the view",
    )
    return quality(later.labels, booster.inplace_predict(np.ascontiguousarray(later.matrix[:, without])))


def _publish(
    store: Registry,
    booster: xgboost.Booster,
    chosen: Sequence[Input],
    later: Matrix,
    rows: pa.Table,
    description: Description,
) -> tuple[StoredModel, float]:
    """Gate, publish, load as a worker would, and only then move the alias. `later` are the rows encoded."""
    where = f"model {MODEL_NAME}"
    signed = inputs_of.signature(chosen)
    if [item.name for item in signed.inputs] != [item.name for item in chosen]:
        raise ModelRefused("the inputs changed their order", where=where, mend="report this")
    model = to_onnx(booster, name=MODEL_NAME)
    engine = OnnxEngine(model, inputs=len(chosen), where=where)
    real = later[:_PARITY_ROWS]
    checked = np.concatenate([real, boundaries(booster, real), np.full_like(real[:1], np.nan)])
    predicted = np.asarray(booster.inplace_predict(checked), np.float32)
    worst = parity(predicted, engine.score(checked), tolerance=PARITY, where=where)
    step = max(len(later) // GOLDEN_ROWS, 1)
    picked = np.arange(0, len(later), step)[:GOLDEN_ROWS]
    files = {
        MODEL: model,
        BOOSTER: bytes(booster.save_raw("ubj")),
        SIGNATURE: signed.to_json(),
        GOLDEN: golden.pack(rows.take(pa.array(picked)), engine.score(later[picked]), signed),
    }
    described = msgspec.structs.replace(description, metrics=description.metrics | {"parity": worst})
    stored = store.publish(MODEL_NAME, files, described)
    load(stored)
    store.set_alias(MODEL_NAME, CHAMPION, stored.version)
    return stored, worst


def _range(table: pa.Table) -> DataRange:
    times = table.column("occurred_at")
    return DataRange(table.num_rows, times[0].as_py(), times[-1].as_py())


class _Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._at = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._at, 3)
        self._at = now
