"""What a model may look at: the record's attributes and the views' features, as a signature."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from features.view import FeatureView
from models.export import OUTPUT
from models.signature import Input, Output, Signature
from schemas.record import FieldSpec

LEAST_SEEN = 20
MOST_WORDS = 1_000
_NUMBERS = ("int", "long", "float", "double", "boolean")


def candidates(views: Sequence[FeatureView], training: pa.Table) -> tuple[list[Input], list[Input]]:
    """(attributes, features) that could be inputs, numbers before texts. The views are of one record.

    Left out are tenant, id, entity and event time, and texts without a word that is frequent enough. The
    vocabulary of a text column is its up to 1,000 most frequent words that occur at least 20 times in
    `training`. An attribute is nullable where the record's field is; features always are, for a record that
    came too late may have none.
    """
    spec = views[0].source.spec()
    hidden = {"tenant", "id", spec.entity, spec.time}
    numbers = [f for f in spec.fields if f.name not in hidden and f.kind in _NUMBERS]
    texts = [f for f in spec.fields if f.name not in hidden and f.kind == "string"]
    attributes = [Input(name=f.name, column=f.name, nullable=f.nullable) for f in numbers]
    for field in texts:
        words = _vocabulary(field, training)
        if words:
            # a word that was never seen is NaN as well, but only null is refused
            attributes.append(
                Input(name=field.name, column=field.name, nullable=field.nullable, vocabulary=words)
            )
    return attributes, [Input(name=name, column=name) for view in views for name in view.feature_names]


def signature(inputs: Sequence[Input]) -> Signature:
    """Numbers first, then texts, otherwise in the given order: then the numbers are one block to encode."""
    ordered = sorted(inputs, key=lambda item: item.vocabulary is not None)
    made = Signature(inputs=tuple(ordered), output=Output(name=OUTPUT))
    made.check(where="training")
    return made


def _vocabulary(field: FieldSpec, training: pa.Table) -> tuple[str, ...]:
    counts = training.column(field.name).combine_chunks().drop_null().value_counts()
    frequent = counts.filter(pc.greater_equal(counts.field("counts"), LEAST_SEEN)).to_pylist()
    frequent.sort(key=lambda entry: (-entry["counts"], entry["values"]))
    return tuple(entry["values"] for entry in frequent[:MOST_WORDS])
