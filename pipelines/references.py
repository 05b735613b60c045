"""The reference tables of a view as their topics have them now; for history, checks and training."""

from collections.abc import Iterator

import pyarrow as pa

from core.errors import DeclarationError
from core.settings import Settings
from features.lookups import Lookup
from features.references import Change, current
from features.view import FeatureView
from pipelines.recorded import _messages
from schemas.codec import RecordCodec
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic


def read(lookup: Lookup, settings: Settings) -> pa.Table:
    """The rows of a lookup's table (see `features.references.current`) up to the topic's present end.

    A message that is no record of the topic is left out, as on Flink. Raises DeclarationError for a lookup on
    no topic, TooLarge for more rows than it declares, Unavailable while Kafka or the registry is away.
    """
    if lookup.topic is None:
        raise DeclarationError(
            f"{lookup.name} is on no topic",
            where=lookup.where,
            mend="declare the compacted topic that holds it, or hand its rows over as a table",
        )
    registry = SchemaRegistry.of(settings)
    try:
        codec = RecordCodec(lookup.record, registry, lookup.topic.subject)
        return current(lookup, _changes(lookup.topic, codec, settings))
    finally:
        registry.close()


def tables(view: FeatureView, settings: Settings) -> dict[str, pa.Table]:
    """The tables of all its lookups by name, as `features.history.compute` takes them."""
    return {lookup.name: read(lookup, settings) for lookup in view.lookups}


def _changes(topic: Topic, codec: RecordCodec[Record], settings: Settings) -> Iterator[Change]:
    for messages in _messages(topic, settings, {}):
        decoded = codec.decode_batch([message.value() for message in messages])
        rows = dict(zip(decoded.kept.tolist(), decoded.batch.to_pylist(), strict=True))
        for index, message in enumerate(messages):
            if index in rows or message.value() is None:
                yield (message.key() or b"").decode(errors="replace"), rows.get(index)
