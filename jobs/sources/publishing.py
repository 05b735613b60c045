"""Events of a source to a topic, as the gateway would have put them there; for a past that nobody sent."""

import pyarrow as pa

from core.clock import to_millis
from core.errors import DeclarationError, Unavailable
from core.settings import Settings
from schemas.broker import producer
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

SOURCE = "millstream.produce"
_CHUNK = 2_000
_TIMEOUT_S = 60.0


def publish(topic: Topic, events: pa.Table, settings: Settings) -> None:
    """Publish rows, in the Arrow schema of the topic's record and in time order, each with its own time.

    A chunk waits until the one before it was acknowledged, so that no partition runs ahead of the others by
    more than 2,000 events. Raises Unavailable while Kafka or the registry is away: part is published then.
    """
    if topic.record is None:
        raise DeclarationError(f"topic {topic.name} has no record", mend="declare it with one")
    spec = topic.record.spec()
    registry, client = SchemaRegistry.of(settings), producer(settings)
    try:
        codec = RecordCodec(topic.record, registry, topic.subject, max_bytes=topic.max_bytes)
        for batch in events.to_batches(max_chunksize=_CHUNK):
            names = ("tenant", "id", spec.entity or "id", spec.time or "")
            columns = (batch.column(name).to_pylist() for name in names)
            for tenant, id, entity, at, value in zip(*columns, codec.encode_batch(batch), strict=True):
                client.produce(
                    topic.name,
                    key=key_of(tenant, str(entity)),
                    value=value,
                    timestamp=to_millis(at),
                    headers=event_headers(
                        id=id, source=SOURCE, type=spec.full_name, time=at, tenant=tenant, received_at=at
                    ),
                )
            if client.flush(_TIMEOUT_S):
                raise Unavailable("Kafka takes no events", where=settings.kafka.address)
    finally:
        registry.close()
