"""A small pipeline to score: a record of five fields, a view of two features, a model that is a formula."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from core.clock import from_millis
from core.errors import ModelRefused
from features.enriched import enriched_record
from features.view import Count, Feature, FeatureView, Mean
from operators.decide import Band, Bands
from operators.ports import Matrix
from pipelines.plan import Infer, ScoringPlan
from schemas.catalog.alerts import ALERTS
from schemas.catalog.decisions import Decision, StatusChange, Verdict
from schemas.codec import arrow_schema
from schemas.record import Record, record
from schemas.topic import Topic

HOUR = timedelta(hours=1)
START = 1_790_000_000_000
BREAKS, GIVES_NAN = 666, 777  # amounts


@record(entity="card_id", time="occurred_at", namespace="millstream.tests")
class Payment(Record, frozen=True, kw_only=True):
    """A payment."""

    card_id: str
    occurred_at: datetime
    amount_cents: int


VIEW = FeatureView(
    name="recent",
    version=1,
    source=Payment,
    entity="card_id",
    disorder=timedelta(milliseconds=50),
    features=(
        Feature("count_1h", Count(over=HOUR), unit="payments", empty=0),
        Feature("mean_1h", Mean("amount_cents", over=HOUR), unit="cents"),
    ),
    ttl=timedelta(days=1),
)
EnrichedPayment = enriched_record(Payment, VIEW)
BANDS = Bands(
    (Band("block", "blocked", above=80), Band("confirm", "confirmed", below=20, explain=False)),
    otherwise=Band("review", "in_review"),
)


def plan(domain: str = "small", *, partitions: int = 4, batch: int = 64) -> ScoringPlan:
    """The pipeline on topics of its own."""

    def topic(kind: str, of: type[Record], **more: Any) -> Topic:
        return Topic(f"{domain}.payments.{kind}.v1", of, partitions=partitions, **more)

    return ScoringPlan(
        pipeline=domain,
        version=1,
        source=topic("events", Payment),
        view=VIEW,
        patterns=(),
        enriched=topic("enriched", EnrichedPayment, append_time=True),
        infer=Infer("formula", batch=batch),
        bands=BANDS,
        results=topic("results", Decision),
        status=topic("status", StatusChange),
        labels=topic("labels", Verdict),
        alerts=ALERTS,
    )


def payment(number: int, amount: int, **more: Any) -> Any:
    """An enriched payment; ten cards, a second apart."""
    given: dict[str, Any] = {
        "tenant": "acme",
        "id": f"p-{number}",
        "card_id": f"card-{number % 10}",
        "occurred_at": from_millis(START + number * 1000),
        "amount_cents": amount,
        "count_1h": 1,
        "mean_1h": float(amount),
        "source": "key-1",
        "received_at": from_millis(START + number * 1000 + 5),
    }
    return EnrichedPayment(**(given | more))


def columns(payments: Sequence[Any]) -> pa.RecordBatch:
    """Enriched payments as the codec would decode them."""
    schema = arrow_schema(EnrichedPayment.spec())
    return pa.RecordBatch.from_pylist(
        [{name: getattr(one, name) for name in schema.names} for one in payments], schema=schema
    )


class Formula:
    """Probability = amount / 10,000 cents + count / 1,000. Breaks, or gives NaN, for certain amounts."""

    name = "formula"
    output_range = (0.0, 1.0)
    inputs: Sequence[str] = ("amount_cents", "count_1h", "mean_1h")

    def __init__(self, version: str = "1", broken: bool = False) -> None:
        self.version = version
        self.broken = broken

    def encode(self, batch: pa.RecordBatch) -> Matrix:
        picked = [
            batch.column(batch.schema.get_field_index(name)).to_numpy(zero_copy_only=False)
            for name in self.inputs
        ]
        return np.ascontiguousarray(np.stack([np.asarray(c, np.float32) for c in picked], axis=1))

    def encode_rows(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Matrix:
        places = [columns.index(name) for name in self.inputs]
        return np.array([[row[place] for place in places] for row in rows], np.float32)

    def score(self, matrix: Matrix) -> Matrix:
        if self.broken or (matrix[:, 0] == BREAKS).any():
            raise RuntimeError("the engine raised")
        scored = matrix[:, 0] / np.float32(10_000) + np.nan_to_num(matrix[:, 1]) / np.float32(1000)
        scored[matrix[:, 0] == GIVES_NAN] = np.nan
        probabilities: Matrix = scored.astype(np.float32)
        return probabilities

    def check(self) -> None:
        if self.broken:
            raise ModelRefused("golden outputs differ")

    def contributions(self, matrix: Matrix) -> Matrix:
        return np.nan_to_num(matrix) * np.array([1, -100, 0.5], np.float32)


def expected(amount: int, count: int | None = 1) -> tuple[float, str, str]:
    """Score, decision and status of a payment, by the rule in words."""
    score = float(
        (np.float32(amount) / np.float32(10_000) + np.float32(count or 0) / np.float32(1000))
        * np.float32(100)
    )
    if score > 80:
        return score, "block", "blocked"
    if score < 20:
        return score, "confirm", "confirmed"
    return score, "review", "in_review"
