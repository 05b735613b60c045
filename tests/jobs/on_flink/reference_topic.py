"""The topic of a lookup's table on the tests' own stack."""

import pyarrow as pa
from confluent_kafka.admin import NewTopic

from core.settings import settings
from features.lookups import Lookup
from pipelines import references
from schemas.avro import schema_text
from schemas.broker import admin, producer
from schemas.codec import RecordCodec
from schemas.keys import key_of
from schemas.record import Record
from schemas.registry import SchemaRegistry


class Reference:
    """The topic of a lookup's table: made and registered; what is written to it, and its table."""

    def __init__(self, lookup: Lookup) -> None:
        assert lookup.topic is not None
        self.lookup, self.topic = lookup, lookup.topic
        client = admin(settings())
        config = self.topic.config(min_insync=1)
        made = client.create_topics([NewTopic(self.topic.name, self.topic.partitions, 1, config=config)])
        made[self.topic.name].result(30)
        self.registry = SchemaRegistry(settings().registry.address)
        self.registry.register(self.topic.subject, schema_text(lookup.record.spec()))
        self.codec: RecordCodec[Record] = RecordCodec(lookup.record, self.registry, self.topic.subject)
        self.producer = producer(settings())
        self.messages = 0

    def put(self, *rows: Record) -> None:
        for row in rows:
            self._produce(key_of(row.tenant, getattr(row, row.spec().entity or "")), self.codec.encode(row))
        assert self.producer.flush(30) == 0

    def raw(self, key: str, value: bytes | None) -> None:
        self._produce(key, value)
        assert self.producer.flush(30) == 0

    def _produce(self, key: str, value: bytes | None) -> None:
        self.producer.produce(self.topic.name, key=key, value=value)
        self.messages += 1

    def table(self) -> pa.Table:
        return references.read(self.lookup, settings())
