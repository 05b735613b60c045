"""The offline store: one Delta table per topic (enriched, features, events), partitioned by date.

Besides the record's columns each row has `kafka_partition`, `kafka_offset` and `enriched_at` (the broker's
time of the enriched message). The table's log keeps, per Kafka partition, the next offset to read.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from core.errors import UnknownName
from schemas.topic import Topic

DATE = "date"
POSITION_COLUMNS = ("kafka_partition", "kafka_offset", "enriched_at")


def offline_path(root: Path, topic: str) -> Path:
    """The folder of the topic's table, inside the data folder."""
    return root / "delta" / topic


def application_id(table: str, topic: str, partition: int) -> str:
    """Under which name the table's log keeps the offset of a partition."""
    return f"{table}:{topic}:{partition}"


def stored_offsets(table: DeltaTable, topic: Topic) -> dict[int, int]:
    """Per partition the next offset to read, as of the version that the handle has; 0 where none is kept."""
    name = Path(table.table_uri).name
    return {
        number: table.transaction_version(application_id(name, topic.name, number)) or 0
        for number in range(topic.partitions)
    }


def positioned(batch: pa.RecordBatch, messages: Sequence[Message], time: str) -> pa.RecordBatch:
    """The rows with where and when their messages came to Kafka, and the date by the column `time`."""
    places: dict[str, list[int | None]] = {
        "kafka_partition": [message.partition() for message in messages],
        "kafka_offset": [message.offset() for message in messages],
        "enriched_at": [message.timestamp()[1] for message in messages],
    }
    types = (pa.int32(), pa.int64(), pa.timestamp("ms", tz="UTC"))
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns |= {
        name: pa.array(values, type_) for (name, values), type_ in zip(places.items(), types, strict=True)
    }
    columns[DATE] = pc.cast(batch.column(time), pa.date32())
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def read_offline(root: Path, topic: str) -> pa.Table:
    """Every row of the topic's table as of now, without the partition column `date`; times are
    timestamp[us, tz=UTC]. Raises UnknownName when there is no table.

    Reads the table's files with DuckDB; deltalake's own reader aborts the interpreter at exit with the
    pyarrow that Beam pins.
    """
    import duckdb  # 25 MB that the writer, which only appends, does not need

    path = offline_path(root, topic)
    try:
        files = DeltaTable(path).file_uris()
    except TableNotFoundError as problem:
        known = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UnknownName("offline table", topic, known, where=str(path.parent)) from problem
    if not files:
        schema = pa.schema(DeltaTable(path).schema().to_arrow(as_large_types=False))
        return schema.empty_table().drop_columns([DATE])
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.sql(
            f"SELECT * EXCLUDE ({DATE}) FROM read_parquet(?, hive_partitioning = true, union_by_name = true)",
            params=[files],
        )
        return rows.to_arrow_table()
