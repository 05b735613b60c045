"""What the scoring benchmark works on: enriched payments on a topic, and a trained model of 200 trees."""

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic

from core.errors import InternalError, MillstreamError, Unavailable
from core.ids import new_id
from core.settings import settings
from features.catalog.card_activity import CARD_ACTIVITY
from features.offline.history import compute
from jobs.training.fraud import recorded, train_fraud
from models.store import ModelStore
from pipelines.catalog.fraud import ENRICHED, RESULTS
from schemas import broker
from schemas.avro import schema_text
from schemas.codec import RecordCodec, arrow_schema
from schemas.keys import key_of
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

PARTITIONS = 4
MODEL = "fraud"
LEADERS_S = 30.0


@dataclass(frozen=True)
class Corpus:
    """`source` has `rows` messages on 4 partitions; the model is the champion of the store in `models`.

    `enriched` is an Arrow file of the rows in the order they were produced.
    """

    source: str
    rows: int
    models: str
    enriched: str
    bytes_per_record: int
    origin: str

    @classmethod
    def read(cls, path: Path) -> "Corpus":
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def prepare(rows: int, folder: Path) -> Corpus:
    """Train once (kept in `folder`), compute the features by the view, fill a topic with the last rows."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        table, source = recorded()
    except Unavailable:
        table, source = recorded(from_generator=True)
    store = ModelStore(folder / "models")
    try:
        store.resolve(MODEL)
    except MillstreamError:
        train_fraud(table, source=source, store=store, root=folder / "training")
    features = compute(CARD_ACTIVITY, table)
    start = table.num_rows - rows
    batch = _enriched(table.slice(start), features.slice(start))
    path = folder / "enriched.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    topic = f"bench.transactions-{new_id()[-12:]}.enriched.v1"
    size = _fill(topic, batch)
    return Corpus(topic, rows, str(store.root), str(path), size, source.name)


def record_of(topic: Topic) -> type[Record]:
    if topic.record is None:
        raise InternalError(f"topic {topic.name} has no record", where="bench")
    return topic.record


def load_rows(corpus: Corpus) -> pa.RecordBatch:
    with pa.memory_map(corpus.enriched) as source:
        return pa.ipc.open_file(source).read_all().combine_chunks().to_batches()[0]


def create_topic(name: str, *, append_time: bool = False) -> None:
    client = broker.admin(settings())
    kind = "LogAppendTime" if append_time else "CreateTime"
    new = NewTopic(
        name,
        num_partitions=PARTITIONS,
        replication_factor=settings().kafka.replication,
        config={"message.timestamp.type": kind, "retention.ms": "86400000"},
    )
    for future in client.create_topics([new], operation_timeout=20).values():
        future.result()
    _wait_for_leaders(name)


def _wait_for_leaders(name: str) -> None:
    consumer = broker.consumer(settings(), None)
    try:
        for number in range(PARTITIONS):
            broker.watermarks(consumer, TopicPartition(name, number), LEADERS_S)
    except KafkaException as error:
        raise Unavailable(f"no leader for {name}", where="bench") from error
    finally:
        consumer.close()


def delete_topics(names: list[str]) -> None:
    client = broker.admin(settings())
    for future in client.delete_topics(names, operation_timeout=20).values():
        future.result()


def register() -> None:
    """The schemas of the enriched and the results record, as `apply` would."""
    registry = SchemaRegistry.of(settings())
    for topic in (ENRICHED, RESULTS):
        registry.register(topic.subject, schema_text(record_of(topic).spec()))


def _enriched(table: pa.Table, features: pa.Table) -> pa.RecordBatch:
    schema = arrow_schema(record_of(ENRICHED).spec())
    rows = table.num_rows
    occurred = table.column("occurred_at").cast(pa.int64()).to_numpy()
    received = occurred + timedelta(milliseconds=40) // timedelta(milliseconds=1)
    given = {name: table.column(name) for name in table.column_names}
    given |= {name: features.column(name) for name in CARD_ACTIVITY.feature_names}
    given["late"] = pa.array(np.zeros(rows, np.bool_))
    given["received_at"] = pa.array(received)
    given["source"] = pa.array(["key-7f3a"] * rows)
    given["traceparent"] = pa.array([f"00-{n:032x}-{n:016x}-01" for n in range(1, rows + 1)])
    columns = [given[field.name].cast(field.type) for field in schema]
    arrays = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _fill(topic: str, batch: pa.RecordBatch) -> int:
    register()
    create_topic(topic, append_time=True)
    codec = RecordCodec(record_of(ENRICHED), SchemaRegistry.of(settings()), ENRICHED.subject)
    # as Flink's sink writes them; Faust's client has no lz4
    producer = broker.producer(settings(), compression_type="none")
    tenants, cards = batch.column("tenant").to_pylist(), batch.column("card_id").to_pylist()
    size: int = 0
    for start in range(0, batch.num_rows, 5000):
        values = codec.encode_batch(batch.slice(start, 5000))
        size += sum(map(len, values))
        for at, value in enumerate(values, start):
            producer.produce(topic, key=key_of(tenants[at], cards[at]), value=value)
        if producer.flush(60):
            raise Unavailable("the corpus could not be written", where=topic, mend="look at the broker")
    return size // int(batch.num_rows)
