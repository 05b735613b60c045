"""What the benches of models work on: the trained fraud model of 200 trees, and rows that it has not seen."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from core.errors import MillstreamError, Unavailable
from core.settings import settings
from features.catalog.card_activity import CARD_ACTIVITY
from features.offline.history import compute
from jobs.training.fraud import recorded, train_fraud
from models.encode import Encoder, Matrix
from models.load import LoadedModel, load
from models.store import ModelStore, StoredModel

MODEL = "fraud"
ROWS = 16_384


@dataclass(frozen=True)
class Material:
    """`matrix` is float32 (rows, inputs), as the model takes it; `origin` says what the payments are."""

    stored: StoredModel
    model: LoadedModel
    matrix: Matrix
    origin: str


def material() -> Material:
    """Train once (kept in the data folder's `bench`), compute the features of the last rows by the view."""
    try:
        table, source = recorded()
    except Unavailable:
        table, source = recorded(from_generator=True)
    store = ModelStore(settings().root / "bench" / "models")
    try:
        stored = store.resolve(MODEL)
    except MillstreamError:
        train_fraud(table, source=source, store=store)
        stored = store.resolve(MODEL)
    model = load(stored)
    features = compute(CARD_ACTIVITY, table)
    start = table.num_rows - ROWS
    given = {name: table.column(name).slice(start) for name in table.column_names}
    given |= {name: features.column(name).slice(start) for name in CARD_ACTIVITY.feature_names}
    columns = pa.table({name: given[name] for name in model.signature.columns})
    matrix = Encoder(model.signature).encode_table(columns)
    return Material(stored, model, np.ascontiguousarray(matrix), source.name)
