"""The reference tables of a view as their topics have them: read for history and checks, and written."""

from collections.abc import Iterator

import pyarrow as pa

from core.errors import DeclarationError, Unavailable
from core.settings import Settings
from features.lookups import Lookup
from features.references import Change, current
from features.view import FeatureView
from pipelines.recorded import messages_of
from schemas.broker import producer
from schemas.codec import RecordCodec
from schemas.keys import key_of
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

TIMEOUT_S = 30.0


def read(lookup: Lookup, settings: Settings) -> pa.Table:
    """The rows of a lookup's table (see `features.references.current`) up to the topic's present end.

    A message that is no record of the topic is left out, as on Flink. Raises DeclarationError for a lookup on
    no topic, TooLarge for more rows than it declares, Unavailable while Kafka or the registry is away.
    """
    topic = _topic(lookup)
    registry = SchemaRegistry.of(settings)
    try:
        codec = RecordCodec(lookup.record, registry, topic.subject)
        return current(lookup, _changes(topic, codec, settings))
    finally:
        registry.close()


def tables(view: FeatureView, settings: Settings) -> dict[str, pa.Table]:
    """The tables of all its lookups by name, as `features.offline.history.compute` takes them."""
    return {lookup.name: read(lookup, settings) for lookup in view.lookups}


def write(lookup: Lookup, rows: pa.Table, settings: Settings) -> None:
    """Publish rows, in the Arrow schema of the lookup's record; each replaces that of its (tenant, entity).

    Returns when Kafka has acknowledged all. Raises Rejected for columns that do not fit, Unavailable while
    Kafka or the registry is away: part may be written then, and all may be written again.
    """
    topic, spec = _topic(lookup), lookup.record.spec()
    registry = SchemaRegistry.of(settings)
    client = producer(settings)
    try:
        codec = RecordCodec(lookup.record, registry, topic.subject, max_bytes=topic.max_bytes)
        for batch in rows.combine_chunks().to_batches():
            tenants, entities = (batch.column(name).to_pylist() for name in ("tenant", spec.entity or "id"))
            values = codec.encode_batch(batch)
            for tenant, entity, value in zip(tenants, entities, values, strict=True):
                client.produce(topic.name, key=key_of(tenant, str(entity)), value=value)
                client.poll(0)
        if client.flush(TIMEOUT_S):
            raise Unavailable("Kafka takes no reference rows", where=settings.kafka.address)
    finally:
        registry.close()


def _topic(lookup: Lookup) -> Topic:
    if lookup.topic is None:
        raise DeclarationError(
            f"{lookup.name} is on no topic",
            where=lookup.where,
            mend="declare the compacted topic that holds it, or hand its rows over as a table",
        )
    return lookup.topic


def _changes(topic: Topic, codec: RecordCodec[Record], settings: Settings) -> Iterator[Change]:
    for messages in messages_of(topic, settings, {}):
        decoded = codec.decode_batch([message.value() for message in messages])
        rows = dict(zip(decoded.kept.tolist(), decoded.batch.to_pylist(), strict=True))
        for index, message in enumerate(messages):
            if index in rows or message.value() is None:
                yield (message.key() or b"").decode(errors="replace"), rows.get(index)
