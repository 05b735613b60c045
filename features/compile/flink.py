"""Views and patterns of a pipeline to Flink SQL: source, first per id, narrow chain, join, sinks.

    events ─ watermark, late or not ─ first per (tenant, id) ─┬─ one OVER per window, narrow ─┐
                                                              ├─ full event, LEFT JOIN ───────┴─> enriched
                                                              └─ MATCH_RECOGNIZE ───────────────> alerts

Every event leaves exactly once: with its features, or, too late for its windows, with nulls and `late`.
Whether it is too late is decided once, at the source (`EventsTableFactory`): it is at or behind the highest
watermark that its own partition ever gave. Such rows stay out of the windows. It has to be once, and out of
the job's state: each OVER takes a row that is behind the clock as long as nothing newer of its entity fired a
timer, a join does not, and after a restart all clocks begin anew; a row would be counted by some windows and
yet come out as late. The partition's own watermark is never behind that of a later operator, so that a row
that is in time here is so everywhere, also when it is replayed.

A message without a value is a tick (see `jobs.on_flink.clock`): it moves the clock of its partition and
goes no further.

The text depends on nothing but the arguments, so that it can be committed. Columns whose names begin with
two underscores are the stream's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Protocol

from core.errors import DeclarationError
from core.ids import digest
from features.compile import flink_features, flink_patterns
from features.compile.flink_columns import columns_ddl, interval, quote, text
from features.lookups import Lookup
from features.patterns import Pattern
from features.plain import check_plain
from features.view import FeatureView
from schemas.avro import schema_text
from schemas.keys import key_sql
from schemas.topic import Topic

FORMAT = "millstream-avro"
SOURCE = "millstream-events"
REFERENCE = "millstream-reference"
EVENTS, FIRST, ENRICHED, ALERTS = "events", "first_events", "enriched", "alerts"
REFERENCES = "reference"
AT, HEADERS, PUBLISHED, SEEN, KEY, LATE = "__at", "__headers", "__published", "__seen", "__key", "__late"
RESERVED = "__"


class Reading(Protocol):
    """What a job reads: a topic, for a view over its record."""

    @property
    def pipeline(self) -> str: ...

    @property
    def source(self) -> Topic: ...

    @property
    def view(self) -> FeatureView: ...


class FlinkStream(Reading, Protocol):
    """What one Flink job computes."""

    @property
    def lineage(self) -> str:
        """SHA-256 that names the job's state: all of the script but addresses, schema texts and disorder.

        Equal lineages have equal topologies and row types, so one can resume from the other's state.
        """
        ...

    def compile(
        self,
        connection: "Connection",
        *,
        disorder: timedelta | None = None,
        since: Mapping[int, int] | None = None,
    ) -> "Script":
        """The script of the job. `disorder` overrides the view's bound (replayed time is scaled time); below
        a millisecond it is one: a row is late at the watermark, not only behind it. `since`: the offset per
        partition at which a job without state begins; by default with the oldest message."""
        ...


@dataclass(frozen=True)
class Stream:
    """A rolling view and patterns of a pipeline over its source, in one job."""

    pipeline: str
    source: Topic
    view: FeatureView
    patterns: tuple[Pattern, ...]
    enriched: Topic
    alerts: Topic

    def __post_init__(self) -> None:
        check_plain(self.view, "the Flink job")
        check_source(self)
        for pattern in self.patterns:
            check_reads(self, pattern)
            if pattern.entity != self.view.entity:
                raise DeclarationError(
                    f"{pattern.where} has entity {pattern.entity!r}, the view has {self.view.entity!r}",
                    where=f"pipeline {self.pipeline}",
                    mend="key views and patterns of one source by the same field",
                )

    @cached_property
    def lineage(self) -> str:
        return lineage_of(self)

    def compile(
        self,
        connection: "Connection",
        *,
        disorder: timedelta | None = None,
        since: Mapping[int, int] | None = None,
    ) -> "Script":
        bound = disorder_bound(self.view, disorder)
        tables = [
            source_table(self, connection, bound, since, headers=True),
            sink_table(ENRICHED, self.enriched, connection),
            first_view(self.view, headers=True),
            *flink_features.views(self.view, FIRST, AT, LATE),
        ]
        inserts = [_enrich(self)]
        if self.patterns:
            tables.insert(2, sink_table(ALERTS, self.alerts, connection))
            inserts += [
                flink_patterns.insert(
                    pattern, source=self.pipeline, events=FIRST, at=AT, late=LATE, alerts=ALERTS, key=KEY
                )
                for pattern in self.patterns
            ]
        return Script.of(tables, inserts)


def check_source(stream: Reading) -> None:
    """Raises DeclarationError for a topic that no job can read, or that the view is not over."""
    if stream.source.append_time:
        raise DeclarationError(
            f"topic {stream.source.name} is stamped by the broker",
            where=f"pipeline {stream.pipeline}",
            mend="let it carry event times (append_time=False); ticks are told by them",
        )
    check_reads(stream, stream.view)
    for name in stream.view.source.spec().names:
        if name.startswith(RESERVED):
            raise DeclarationError(
                f"field {name!r} begins with {RESERVED}", where=stream.view.where, mend="rename the field"
            )


def check_reads(stream: Reading, declared: FeatureView | Pattern) -> None:
    """Raises DeclarationError for a view or pattern over another record than the topic's."""
    if declared.source is not stream.source.record:
        raise DeclarationError(
            f"{declared.where} reads another record than topic {stream.source.name}",
            where=f"pipeline {stream.pipeline}",
            mend="declare it over the record of the pipeline's source",
        )


def lineage_of(stream: FlinkStream) -> str:
    script = stream.compile(PLACEHOLDER, disorder=timedelta(0))
    return digest(f"{TOPOLOGY}\n{script.text}".encode())


def disorder_bound(view: FeatureView, given: timedelta | None) -> timedelta:
    return max(view.disorder if given is None else given, timedelta(milliseconds=1))


@dataclass(frozen=True)
class Connection:
    """Where the job finds Kafka and the registry. `kafka` are further client properties (TLS, SASL).

    `schemas`: whether the text of each schema is in the script, or a placeholder of its subject.
    """

    bootstrap: str
    registry: str
    kafka: Mapping[str, str] = field(default_factory=dict)
    schemas: bool = True


PLACEHOLDER = Connection(bootstrap="${kafka}", registry="${registry}", schemas=False)
"""Stands for any connection: in committed texts, and in the digest that names a job's state."""
TOPOLOGY = 2
"""Goes up with every change in how a script becomes operators: state kept by others cannot be resumed."""


@dataclass(frozen=True)
class Script:
    """The SQL of a job: tables and views, one statement each, then one statement set."""

    tables: tuple[str, ...]
    statement_set: str

    @classmethod
    def of(cls, tables: Sequence[str], inserts: Sequence[str]) -> "Script":
        return cls(
            tuple(tables), "STATEMENT SET BEGIN\n" + "".join(f"{insert};\n" for insert in inserts) + "END"
        )

    @property
    def text(self) -> str:
        return ";\n\n".join((*self.tables, self.statement_set)) + ";\n"


def source_table(
    stream: Reading,
    connection: Connection,
    disorder: timedelta,
    since: Mapping[int, int] | None,
    *,
    headers: bool = False,
) -> str:
    """The events of the topic and its ticks, with the watermark and `__late`. The watermarks that `__late`
    goes by are state of the job, and no event times, so that they stay where they were when the disorder
    bound is changed. headers: whether the messages' are read, which costs also where nobody uses them."""
    spec = stream.view.source.spec()
    # All nullable: a tick is a row of nulls.
    items = [
        *columns_ddl(spec, nullable=True),
        *([f"{quote(HEADERS)} MAP<STRING, BYTES> METADATA FROM 'headers' VIRTUAL"] if headers else []),
        f"{quote(PUBLISHED)} TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL",
        f"{quote(LATE)} BOOLEAN METADATA FROM 'late' VIRTUAL",
        f"{quote(AT)} AS CASE WHEN `id` IS NULL THEN CAST({quote(PUBLISHED)} AS TIMESTAMP(3)) "
        f"+ {interval(disorder)} "
        f"ELSE {quote(stream.view.time)} END",
        f"{quote(SEEN)} AS PROCTIME()",
        f"WATERMARK FOR {quote(AT)} AS {quote(AT)} - {interval(disorder)}",
    ]
    options = _kafka(stream.source, connection) | {
        "connector": SOURCE,
        "late.time": stream.view.time,
        "late.disorder-ms": str(disorder // timedelta(milliseconds=1)),
        "properties.group.id": f"millstream-{stream.pipeline}-flink",
        "properties.enable.auto.commit": "false",
        "properties.isolation.level": "read_committed",
        # Few larger fetches: every record that comes alone wakes each thread of the job.
        "properties.fetch.min.bytes": "65536",
        "properties.fetch.max.wait.ms": "10",
        **_startup(since),
        "scan.topic-partition-discovery.interval": "60 s",
        "value.format": FORMAT,
        **_format(stream.source, connection),
    }
    return _table(EVENTS, items, options)


def _startup(since: Mapping[int, int] | None) -> dict[str, str]:
    if since is None:
        return {"scan.startup.mode": "earliest-offset"}
    offsets = ";".join(f"partition:{number},offset:{offset}" for number, offset in sorted(since.items()))
    return {"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": offsets}


def sink_table(name: str, topic: Topic, connection: Connection) -> str:
    """The columns of the topic's record, and `__key`, the Kafka key."""
    if topic.record is None:
        raise DeclarationError(f"topic {topic.name} declares no record", mend="give the topic its record")
    items = [f"{quote(KEY)} STRING", *columns_ddl(topic.record.spec(), nullable=True)]
    options = _kafka(topic, connection) | {
        "properties.acks": "all",
        "properties.linger.ms": "2",
        "sink.delivery-guarantee": "at-least-once",
        "key.format": "raw",
        "key.fields": KEY,
        "value.format": FORMAT,
        "value.fields-include": "EXCEPT_KEY",
        **_format(topic, connection),
    }
    return _table(name, items, options)


def reference_table(lookup: Lookup, connection: Connection) -> str:
    """The reference table as it is when it is asked, out of its compacted topic (`ReferenceTableFactory`)."""
    spec, topic = lookup.record.spec(), lookup.topic
    if topic is None or spec.entity is None:
        raise DeclarationError(f"{lookup.name} is on no topic", where=lookup.where, mend="give it its topic")
    options = _kafka(topic, connection) | {
        "connector": REFERENCE,
        "entity": spec.entity,
        "most-rows": str(lookup.most_rows),
        "value.format": FORMAT,
        **_format(topic, connection),
    }
    return _table(reference_name(lookup), columns_ddl(spec, nullable=True), options)


def reference_name(lookup: Lookup) -> str:
    return f"{REFERENCES}_{lookup.name}"


def _kafka(topic: Topic, connection: Connection) -> dict[str, str]:
    given = {f"properties.{name}": value for name, value in connection.kafka.items()}
    return {
        "connector": "kafka",
        "topic": topic.name,
        "properties.bootstrap.servers": connection.bootstrap,
        "properties.allow.auto.create.topics": "false",
        **given,
    }


def _format(topic: Topic, connection: Connection) -> dict[str, str]:
    if topic.record is None:
        raise DeclarationError(f"topic {topic.name} declares no record", mend="give the topic its record")
    return {
        f"value.{FORMAT}.url": connection.registry,
        f"value.{FORMAT}.subject": topic.subject,
        f"value.{FORMAT}.schema": schema_text(topic.record.spec())
        if connection.schemas
        else f"${{schema of {topic.subject}}}",
    }


def _table(name: str, items: list[str], options: Mapping[str, str]) -> str:
    columns = ",\n  ".join(items)
    settings = ",\n  ".join(f"{text(key)} = {text(value)}" for key, value in options.items())
    return f"CREATE TEMPORARY TABLE {quote(name)} (\n  {columns}\n) WITH (\n  {settings}\n)"


def first_view(view: FeatureView, *, headers: bool = False) -> str:
    """The first record per (tenant, id) in order of arrival; `__at` stays a time attribute."""
    names = [*view.source.spec().names, AT, *([HEADERS] if headers else []), LATE]
    return (
        f"CREATE TEMPORARY VIEW {quote(FIRST)} AS\n"
        f"SELECT {', '.join(quote(name) for name in names)}\n"
        "FROM (\n  SELECT *,\n"
        f"    ROW_NUMBER() OVER (PARTITION BY `tenant`, `id` ORDER BY {quote(SEEN)}) AS `__nth`\n"
        f"  FROM {quote(EVENTS)}\n  WHERE `id` IS NOT NULL\n)\nWHERE `__nth` = 1"
    )


def _enrich(stream: Stream) -> str:
    view = stream.view
    fields = view.source.spec().names
    time, entity = quote(AT), quote(view.single_entity)
    selected: dict[str, str] = {KEY: key_sql("e.`tenant`", f"e.{entity}")}
    selected |= {name: f"e.{quote(name)}" for name in fields}
    selected |= {name: f"f.{quote(name)}" for name in view.feature_names}
    selected |= {
        "late": "f.`id` IS NULL",
        "received_at": "CAST(TO_TIMESTAMP_LTZ(TRY_CAST("
        f"CAST(e.{quote(HEADERS)}['ce_receivedat'] AS STRING) AS BIGINT), 3) AS TIMESTAMP(3))",
        "source": f"CAST(e.{quote(HEADERS)}['ce_source'] AS STRING)",
        "traceparent": f"CAST(e.{quote(HEADERS)}['traceparent'] AS STRING)",
    }
    items = ",\n  ".join(f"{value} AS {quote(name)}" for name, value in selected.items())
    return (
        f"INSERT INTO {quote(ENRICHED)}\nSELECT\n  {items}\n"
        f"FROM {quote(FIRST)} AS e\nLEFT JOIN {quote(flink_features.LAST)} AS f\n"
        f"ON e.`tenant` = f.`tenant` AND e.`id` = f.`id` AND e.{entity} = f.{entity}\n"
        f"AND f.{time} BETWEEN e.{time} AND e.{time}"
    )
