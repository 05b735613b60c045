"""A version fits a pipeline or not, and every reason is told at once."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from models import golden
from models.manifest import Description
from models.signature import Input, Output, Signature
from models.store import GOLDEN, MODEL, SIGNATURE, ModelStore, StoredModel
from pipelines.load import load_scoring
from pipelines.model_compatibility import compatibility
from pipelines.plan import ScoringPlan
from schemas.codec import arrow_schema
from tests.models import made

INPUTS = (
    Input("amount", "amount_cents", nullable=False),
    Input("card1", "card1"),
    Input("payments", "count_10m"),
    Input("product", "product", vocabulary=("W", "C")),
)
SIGNED = Signature(inputs=INPUTS, output=Output("probability"))


@pytest.fixture(scope="module")
def plan() -> ScoringPlan:
    return load_scoring("fraud")


@pytest.fixture
def version(tmp_path: Path, plan: ScoringPlan) -> Callable[..., StoredModel]:
    """A version with those inputs, golden rows of the record's own types, and that description."""
    store = ModelStore(tmp_path, clock=made.CLOCK)
    record = plan.enriched.record
    assert record is not None
    schema = arrow_schema(record.spec())
    described = msgspec.structs.replace(
        made.DESCRIPTION,
        views={plan.view.name: plan.view.version},
        view_digests={plan.view.name: plan.view.digest},
    )

    def publish(
        signed: Signature = SIGNED, types: dict[str, pa.DataType] | None = None, **stated: object
    ) -> StoredModel:
        kinds = {
            column: (types or {}).get(
                column, schema.field(column).type if column in schema.names else pa.int64()
            )
            for column in signed.columns
        }
        rows = pa.table({column: pa.nulls(3, kind) for column, kind in kinds.items()})
        files = {
            MODEL: b"not loaded here",
            SIGNATURE: signed.to_json(),
            GOLDEN: golden.pack(rows, np.zeros(3, np.float32), signed),
        }
        description: Description = msgspec.structs.replace(described, **stated)
        return store.publish(plan.infer.model, files, description)

    return publish


def reasons(stored: StoredModel, plan: ScoringPlan) -> list[str]:
    found = compatibility(stored, plan)
    assert all(finding.where and finding.mend for finding in found)
    return [finding.what for finding in found]


def with_input(at: int, **change: object) -> Signature:
    inputs = list(INPUTS)
    inputs[at] = msgspec.structs.replace(inputs[at], **change)
    return msgspec.structs.replace(SIGNED, inputs=tuple(inputs))


def test_a_version_of_the_same_view_fits(version: Callable[..., StoredModel], plan: ScoringPlan) -> None:
    assert reasons(version(), plan) == []


def test_a_missing_feature_is_named(version: Callable[..., StoredModel], plan: ScoringPlan) -> None:
    (reason,) = reasons(version(with_input(2, column="payments_9h")), plan)
    assert "'payments_9h'" in reason


def test_another_type_is_named(version: Callable[..., StoredModel], plan: ScoringPlan) -> None:
    (reason,) = reasons(version(types={"count_10m": pa.float64()}), plan)
    assert "count_10m" in reason
    assert "double" in reason


def test_another_version_or_meaning_of_the_view_is_named(
    version: Callable[..., StoredModel], plan: ScoringPlan
) -> None:
    assert "v9" in reasons(version(views={plan.view.name: 9}), plan)[0]
    (meaning,) = reasons(version(view_digests={plan.view.name: "0" * 64}), plan)
    assert "means" in meaning
    (unstated,) = reasons(version(view_digests={}), plan)
    assert "not stated" in unstated
    assert any("does not say" in reason for reason in reasons(version(views={}, view_digests={}), plan))
    (other,) = reasons(version(views={plan.view.name: plan.view.version, "other": 1}), plan)
    assert "'other'" in other


def test_text_and_words_must_agree(version: Callable[..., StoredModel], plan: ScoringPlan) -> None:
    assert "no vocabulary" in reasons(version(with_input(3, vocabulary=None)), plan)[0]
    assert "has a vocabulary" in reasons(version(with_input(1, vocabulary=("a",))), plan)[0]


def test_a_column_that_may_be_null_needs_an_input_that_may(
    version: Callable[..., StoredModel], plan: ScoringPlan
) -> None:
    assert "may be null" in reasons(version(with_input(2, nullable=False)), plan)[0]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 100.0), (0.5, 0.5)])
def test_an_output_that_is_no_probability_is_named(
    version: Callable[..., StoredModel], plan: ScoringPlan, low: float, high: float
) -> None:
    signed = msgspec.structs.replace(SIGNED, output=Output("score", low=low, high=high))
    assert "decisions want a probability" in reasons(version(signed), plan)[0]


def test_every_reason_is_told_at_once(version: Callable[..., StoredModel], plan: ScoringPlan) -> None:
    signed = msgspec.structs.replace(
        with_input(2, column="payments_9h"), output=Output("score", low=0.0, high=2.0)
    )
    assert len(reasons(version(signed, views={plan.view.name: 9}, view_digests={}), plan)) >= 3
