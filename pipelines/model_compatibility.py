"""Whether a version of a model can score what a pipeline feeds it: names, types, meaning, range.

The types are those of the golden rows, which were taken at the model's door when it was published.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from core.errors import ModelRefused
from models import golden, signature
from models.forecasts import HORIZONS, SCALE
from models.manifest import Description
from models.signature import PROBABILITY, Input, Signature
from models.store import GOLDEN, SIGNATURE, StoredModel
from operators.forecast import ASKED
from pipelines.plan import ForecastPlan, ServedPlan
from schemas.codec import arrow_schema
from schemas.record import Record

LOW, HIGH = 0.0, 1.0


@dataclass(frozen=True)
class Finding:
    """One reason why not."""

    what: str
    where: str
    mend: str


def require_compatible(stored: StoredModel, plan: ServedPlan) -> None:
    """Raises ModelRefused, with every finding, unless the pipeline can be scored by that version."""
    found = compatibility(stored, plan)
    if found:
        raise ModelRefused(
            "; ".join(finding.what for finding in found), where=found[0].where, mend=found[0].mend
        )


def compatibility(stored: StoredModel, plan: ServedPlan) -> tuple[Finding, ...]:
    """Every finding; none when the pipeline can be scored by that version. Raises ModelRefused for a version
    whose signature or golden rows cannot be read."""
    description = stored.manifest.description
    where = f"model {stored.name} {stored.version} in pipeline {plan.pipeline}"
    if description.kind != "tabular":
        return (Finding(f"it is of kind {description.kind}", where, "give a tabular model"),)
    if plan.given.record is None:
        raise ModelRefused(f"topic {plan.given.name} has no record", where=where, mend="declare it")
    signed = signature.parse(stored.read(SIGNATURE), where=stored.where)
    rows, _ = golden.unpack(stored.read(GOLDEN), where=stored.where)
    used = any(column in plan.view.feature_names for column in signed.columns)
    return (
        *_named(stored, plan, where),
        *_views(description, plan, where, used),
        *_inputs(signed, rows.schema, _given(plan, plan.given.record), f"{where}, topic {plan.given.name}"),
        *(_quantity(signed, plan, where) if isinstance(plan, ForecastPlan) else _probability(signed, where)),
        *(_asked(description, plan, where) if isinstance(plan, ForecastPlan) else ()),
    )


def _given(plan: ServedPlan, of: type[Record]) -> pa.Schema:
    """The columns that the model is given. In a row of a windowed view a feature with a value for "empty" is
    never null, though its field may be."""
    columns = arrow_schema(of.spec())
    if not isinstance(plan, ForecastPlan):
        return columns
    never = {feature.name for feature in plan.view.features if feature.empty is not None}
    own = [one.with_nullable(one.nullable and one.name not in never) for one in columns]
    return pa.schema([*own, *(pa.field(name, pa.int64(), nullable=False) for name in ASKED)])


def _named(stored: StoredModel, plan: ServedPlan, where: str) -> Iterator[Finding]:
    if stored.name != plan.infer.model:
        yield Finding(f"the pipeline asks model {plan.infer.model!r}", where, "infer with this model")


def _views(description: Description, plan: ServedPlan, where: str, used: bool) -> Iterator[Finding]:
    view, mend = plan.view, "train on the view as it is now, or apply the version the model learned from"
    for name, version in sorted(description.views.items()):
        if name != view.name:
            yield Finding(f"it learned from view {name!r}; the pipeline computes {view.name!r}", where, mend)
        elif version != view.version:
            yield Finding(
                f"it learned from {name} v{version}; the pipeline computes v{view.version}", where, mend
            )
    stated = description.view_digests.get(view.name)
    if used and view.name not in description.views:
        yield Finding(
            f"it reads features of {view.name!r} and does not say of which version", where, "state `views`"
        )
    elif used and stated is None:
        yield Finding(f"the meaning of {view.name!r} is not stated", where, "state `view_digests`")
    elif stated is not None and stated != view.digest:
        yield Finding(
            f"{view.name} meant {stated[:12]}... when it learned, and means {view.digest[:12]}... now",
            where,
            mend,
        )


def _inputs(signed: Signature, golden_rows: pa.Schema, here: pa.Schema, where: str) -> Iterator[Finding]:
    for item in signed.inputs:
        if item.column not in here.names:
            yield Finding(
                f"there is no column {item.column!r}", where, "add the feature, or train without it"
            )
            continue
        kind = here.field(item.column).type
        if item.column not in golden_rows.names:
            yield Finding(f"the golden rows lack the column {item.column!r}", where, "publish it again")
        elif (learned := golden_rows.field(item.column).type) != kind:
            yield Finding(
                f"column {item.column!r} is {kind}; the model learned from {learned}",
                where,
                "train on the type of the record",
            )
        yield from _words(item, kind, where)
        if not item.nullable and here.field(item.column).nullable:
            yield Finding(
                f"column {item.column!r} may be null, the model's input {item.name!r} may not",
                where,
                "train with the input nullable",
            )


def _words(item: Input, kind: pa.DataType, where: str) -> Iterator[Finding]:
    if pa.types.is_string(kind) and item.vocabulary is None:
        yield Finding(f"column {item.column!r} is text, the input has no vocabulary", where, "give it one")
    if not pa.types.is_string(kind) and item.vocabulary is not None:
        yield Finding(f"column {item.column!r} is {kind}, the input has a vocabulary", where, "leave it out")


def _probability(signed: Signature, where: str) -> Iterator[Finding]:
    low, high = signed.output.low, signed.output.high
    if signed.output.unit != PROBABILITY or not (LOW <= low < high <= HIGH):
        yield Finding(
            f"its output lies in [{low:g}, {high:g}] {signed.output.unit}; decisions want a probability in "
            f"[{LOW:g}, {HIGH:g}]",
            where,
            "export the probability",
        )


def _quantity(signed: Signature, plan: ForecastPlan, where: str) -> Iterator[Finding]:
    output = signed.output
    if output.unit != plan.unit:
        yield Finding(
            f"its output is in {output.unit}; {plan.counted} is in {plan.unit}",
            where,
            "train on the feature that the pipeline forecasts",
        )
    if not (0.0 <= output.low < output.high < math.inf):
        yield Finding(
            f"its output lies in [{output.low:g}, {output.high:g}]; a count is finite and at least 0",
            where,
            "export the quantity",
        )


def _asked(description: Description, plan: ForecastPlan, where: str) -> Iterator[Finding]:
    """What a model was not asked in its training it is not asked in service."""
    learned = description.parameters
    known = str(learned.get(HORIZONS, "")).split(", ")
    for horizon in plan.horizons:
        if str(horizon) not in known:
            yield Finding(
                f"it did not learn horizon {horizon}; it learned {', '.join(known) or 'none'}",
                where,
                "train with the horizons of the pipeline",
            )
    if learned.get(SCALE) != plan.scale:
        yield Finding(
            f"it counts in units of {learned.get(SCALE)}; the pipeline's scale is {plan.scale}",
            where,
            "train with the scale of the pipeline",
        )
