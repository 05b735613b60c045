"""Training the fraud model on rows that the caller has: for the demo, benchmarks and tests.

The model learns from everything before the history part of the rows (see `jobs.sources.slices`): the 7 days
before the stream are the gap, quality is measured on the rows that the demo streams.
"""

import os
from pathlib import Path

import pyarrow as pa
from msgspec.structs import replace

from core.clock import SystemClock
from core.errors import InvalidInput, MillstreamError
from core.settings import settings
from features.catalog.card_activity import CARD_ACTIVITY
from features.view import FeatureView
from jobs.sources import card_fraud, generated
from jobs.sources.progress import Progress, silent
from jobs.sources.slices import HISTORY, Slices
from jobs.training.beginning import Asked, begin, run_id
from jobs.training.ports import Surroundings
from jobs.training.run_folder import RunFolder, RunState
from jobs.training.runner import carry_out
from models.manifest import DataSource
from models.registry import open_registry
from models.store import Registry, StoredModel
from pipelines.training.configuration import Configuration, Split
from pipelines.training.reading import shipped

MODEL_NAME = "fraud"
EVENTS = 20_000
GENERATED_ROWS = 150_000


def streaming(events: int = EVENTS) -> Configuration:
    """The shipped configuration without a search, leaving `events` rows per demo phase unseen."""
    split = Split(test_rows=2 * events, gap_days=HISTORY.days)
    return replace(shipped(MODEL_NAME).quick(), split=split)


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
    return stored if learned and learned.last_at < slices.history_starts_at else None


def train_fraud(
    table: pa.Table,
    *,
    source: DataSource,
    configuration: Configuration | None = None,
    store: Registry | None = None,
    root: Path | None = None,
    progress: Progress = silent,
) -> RunState:
    """Train on `table` (the record's columns and `is_fraud`, in time order); a model that passes the gate is
    the champion then. Raises what a stage raises, and InvalidInput when the gate says no."""
    folder = RunFolder(root or training_root(), run_id(MODEL_NAME))
    begin(configuration or streaming(), folder, Asked(promote=True), SystemClock())
    around = Surroundings(
        store=store or open_registry(settings()), progress=progress, processes=os.cpu_count() or 1
    )
    state = carry_out(folder, around, given=(table, source))
    if state.problem is not None:
        raise InvalidInput(state.problem, where=f"run {state.id}", mend=f"see {folder.path}")
    return state


def training_root() -> Path:
    """Where runs are kept, inside the data folder of the settings."""
    return settings().root / "training"
