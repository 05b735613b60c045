"""Reads as Arrow columns: entities in, a batch out.

card_id  card_activity__count_1h  card_activity__event_time  card_activity__age_ms  card_activity__status
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from features.feature_rows import field_name
from features.kinds import ValueKind
from features.offline.training import column_of
from features.online.packed_columns import STATUS_TYPE, STATUSES
from features.online.selection import Selection, entity_fields
from features.online.status import FeatureRead
from features.view import FeatureView
from schemas.keys import split_entity

TYPES: Mapping[ValueKind, pa.DataType] = {
    "long": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
}
_CODES = {status: code for code, status in enumerate(STATUSES)}


def rolling_columns(view: FeatureView, reads: Sequence[FeatureRead]) -> pa.RecordBatch:
    """Of a rolling view what `PackedReader.read_batch` gives of a windowed one."""
    values = [read.values for read in reads]
    statuses = [read.statuses for read in reads]
    names = view.feature_names
    columns: dict[str, pa.Array] = {
        "event_time": pa.array([read.event_time_ms for read in reads], pa.int64()).cast(
            pa.timestamp("ms", tz="UTC")
        ),
        "age_ms": pa.array([read.age_ms for read in reads], pa.int64()),
    }
    for feature in view.features:
        columns[feature.name] = pa.array([row[feature.name] for row in values], TYPES[view.kind(feature)])
    told = [_status([_CODES[row[name]] for row in statuses]) for name in names]
    columns["status"] = pa.StructArray.from_arrays(
        told, fields=[pa.field(name, STATUS_TYPE) for name in names]
    )
    return pa.RecordBatch.from_pydict(columns)


def joined(
    selection: Selection, keys: Sequence[Sequence[str]], parts: Sequence[pa.RecordBatch]
) -> pa.RecordBatch:
    """One batch of the views' batches.

    Columns: the fields of the entities (strings); then per view its asked features, `event_time`
    (timestamp[ms, UTC]), `age_ms` (int64) and `status`, a struct of one dictionary-encoded string per asked
    feature, all named `<view>__<name>`.
    """
    columns: dict[str, pa.Array] = dict.fromkeys(entity_fields(selection))
    for (view, names), mine, part in zip(selection, keys, parts, strict=True):
        fields = [field_name(name) for name in view.entity_fields]
        split = [split_entity(entity, len(fields)) for entity in mine]
        for at, field in enumerate(fields):
            columns[field] = pa.array([values[at] for values in split], pa.string())
        for name in (*names, "event_time", "age_ms"):
            columns[column_of(view, name)] = part.column(name)
        status = part.column("status")
        columns[column_of(view, "status")] = pa.StructArray.from_arrays(
            [status.field(name) for name in names], fields=[pa.field(name, STATUS_TYPE) for name in names]
        )
    return pa.RecordBatch.from_pydict(columns)


def _status(codes: Sequence[int]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(np.array(codes, dtype=np.int8)), pa.array(STATUSES, pa.string())
    )
