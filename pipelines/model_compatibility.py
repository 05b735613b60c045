"""Whether a version of a model can score what a pipeline feeds it: names, types, meaning, range.

The types are those of the golden rows, which were taken at the model's door when it was published.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from core.errors import ModelRefused
from models import golden, signature
from models.manifest import Description
from models.signature import Input, Signature
from models.store import GOLDEN, SIGNATURE, StoredModel
from pipelines.plan import ScoringPlan
from schemas.codec import arrow_schema
from schemas.record import RecordSpec

LOW, HIGH = 0.0, 1.0


@dataclass(frozen=True)
class Finding:
    """One reason why not."""

    what: str
    where: str
    mend: str


def compatibility(stored: StoredModel, plan: ScoringPlan) -> tuple[Finding, ...]:
    """Every finding; none when the pipeline can be scored by that version. Raises ModelRefused for a version
    whose signature or golden rows cannot be read."""
    description = stored.manifest.description
    where = f"model {stored.name} {stored.version} in pipeline {plan.pipeline}"
    if description.kind != "tabular":
        return (Finding(f"it is of kind {description.kind}", where, "give a tabular model"),)
    if plan.enriched.record is None:
        raise ModelRefused(f"topic {plan.enriched.name} has no record", where=where, mend="declare it")
    signed = signature.parse(stored.read(SIGNATURE), where=stored.where)
    rows, _ = golden.unpack(stored.read(GOLDEN), where=stored.where)
    spec = plan.enriched.record.spec()
    return (
        *_named(stored, plan, where),
        *_views(description, plan, where, any(c in plan.view.feature_names for c in signed.columns)),
        *_inputs(signed, rows.schema, spec, f"{where}, topic {plan.enriched.name}"),
        *_output(signed, where),
    )


def _named(stored: StoredModel, plan: ScoringPlan, where: str) -> Iterator[Finding]:
    if stored.name != plan.infer.model:
        yield Finding(f"the pipeline asks model {plan.infer.model!r}", where, "infer with this model")


def _views(description: Description, plan: ScoringPlan, where: str, used: bool) -> Iterator[Finding]:
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


def _inputs(signed: Signature, golden_rows: pa.Schema, spec: RecordSpec, where: str) -> Iterator[Finding]:
    here = arrow_schema(spec)
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
        if not item.nullable and spec.field(item.column).nullable:
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


def _output(signed: Signature, where: str) -> Iterator[Finding]:
    low, high = signed.output.low, signed.output.high
    if not (LOW <= low < high <= HIGH):
        yield Finding(
            f"its output lies in [{low:g}, {high:g}]; decisions want a probability in [{LOW:g}, {HIGH:g}]",
            where,
            "export the probability",
        )
