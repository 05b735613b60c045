"""A small model on columns of every kind, made in well under a second."""

import numpy as np
import pyarrow as pa
import xgboost

from core.clock import ManualClock
from models import golden
from models.encode import Encoder, Matrix
from models.engines.onnx import OnnxEngine
from models.export import to_onnx
from models.manifest import DataRange, DataSource, Description
from models.signature import Input, Output, Signature
from models.store import BOOSTER, GOLDEN, MODEL, SIGNATURE

CLOCK = ManualClock()
SIGNED = Signature(
    inputs=(
        Input("amount", "amount_cents", nullable=False),
        Input("count", "count_1h"),
        Input("mean", "mean_1h"),
        Input("product", "product", vocabulary=("C", "W", "H")),
    ),
    output=Output("probability"),
)
DESCRIPTION = Description(
    data=DataSource("made", "none"),
    trained_on=DataRange(rows=2_000, first_at=CLOCK.now(), last_at=CLOCK.now()),
    views={"card_activity": 1},
)


def rows(count: int, seed: int = 0) -> pa.RecordBatch:
    """Columns in another order than the signature's, with nulls, unknown words and a column nobody reads."""
    random = np.random.default_rng(seed)
    return pa.record_batch(
        {
            "product": pa.array(
                random.choice(np.array(["W", "C", "H", "never seen", None], object), count), pa.string()
            ),
            "mean_1h": pa.array(random.normal(50, 20, count), mask=random.random(count) < 0.2),
            "id": pa.array([f"t{n}" for n in range(count)], pa.string()),
            "amount_cents": pa.array(random.integers(0, 10_000, count)),
            "count_1h": pa.array(random.integers(0, 9, count), pa.int32(), mask=random.random(count) < 0.3),
        }
    )


def booster(seed: int = 0) -> xgboost.Booster:
    """Learns that much money, or the product C, is fraud."""
    batch = rows(2_000, seed)
    matrix = Encoder(SIGNED).encode(batch)
    labels = ((matrix[:, 0] > 7_000) | (matrix[:, 3] == 0)) ^ (np.random.default_rng(1).random(2_000) < 0.05)
    data = xgboost.QuantileDMatrix(matrix, labels)
    return xgboost.train(
        {"objective": "binary:logistic", "max_depth": 4, "seed": seed, "nthread": 1}, data, 12
    )


def files(made: xgboost.Booster) -> dict[str, bytes]:
    """What is published: model, booster, signature, 64 golden rows."""
    model = to_onnx(made, name="small")
    batch = rows(64, seed=99)
    return {
        MODEL: model,
        BOOSTER: bytes(made.save_raw("ubj")),
        SIGNATURE: SIGNED.to_json(),
        GOLDEN: golden.pack(pa.table(batch), scores(model, batch), SIGNED),
    }


def scores(model: bytes, batch: pa.RecordBatch) -> Matrix:
    return OnnxEngine(model, inputs=len(SIGNED.inputs), where="test").score(Encoder(SIGNED).encode(batch))
