"""The Faust arm of the feature engines' benchmark: the view as its documentation says to write it.

`python -m bench.features_faust DOMAIN`: a typed agent, a tumbling table with its changelog on Kafka, windows
sent when the table closes them. In memory, with Faust's own settings but for two: the table is looked through
each second, as in Faust's example of windows, and its web server is off. Nothing is kept of ids, and late
events are not told apart; both are work that only the other engines do.

The table closes windows by the wall clock, as if events came at the time that they bear. Those of the
benchmark are sent faster, so that its clock here is the latest window that has an event.
"""

import io
import json
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import faust
import faust.tables.base
from faust.serializers import codecs

from bench.features_events import MINUTE, PARTITIONS, topics
from core.settings import settings
from features.feature_rows import row_id
from jobs.on_faust import compression
from schemas.avro import schema_text
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

GRACE = timedelta(seconds=1)
CLEANUP_S = 1.0


class DemandEvent(faust.Record, serializer="demand"):  # type: ignore[misc, call-arg]
    """Something that a user did in a region."""

    tenant: str
    id: str
    region: str
    at: datetime
    kind: str
    fare: int


class _Avro(codecs.Codec):  # type: ignore[misc]
    """Avro behind the registry's header."""

    def __init__(self, topic: Topic) -> None:
        super().__init__()
        assert topic.record is not None
        text = schema_text(topic.record.spec())
        self._schema = fastavro.parse_schema(json.loads(text))
        self._head = b"\x00" + SchemaRegistry.of(settings()).id_of(topic.subject, text).to_bytes(4)

    def _loads(self, value: bytes) -> Any:
        return fastavro.schemaless_reader(io.BytesIO(value[5:]), self._schema, None)

    def _dumps(self, value: Any) -> bytes:
        out = io.BytesIO()
        out.write(self._head)
        fastavro.schemaless_writer(out, self._schema, value)
        return out.getvalue()


class _LatestWindow:
    """The clock that a table closes its windows by, in place of the module `time`."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def time(self) -> float:
        return float(max(self._table._partition_latest_timestamp.values(), default=0.0))


def main(domain: str) -> None:
    """The worker, until it is told to stop."""
    compression.install()
    given = topics(domain)
    folder = settings().root / "faust" / domain
    folder.mkdir(parents=True, exist_ok=True)
    codecs.register("demand", _Avro(given["source"]))
    codecs.register("demand_features", _Avro(given["rows"]))
    app = faust.App(
        f"bench-{domain}",
        broker=f"kafka://{settings().kafka.address}",
        topic_partitions=PARTITIONS,
        table_cleanup_interval=CLEANUP_S,
        web_enabled=False,
        datadir=str(folder),
    )
    source = app.topic(given["source"].name, value_type=DemandEvent)
    rows = app.topic(given["rows"].name, key_serializer="raw", value_serializer="demand_features")

    async def closed(key: tuple[tuple[str, str], tuple[float, float]], state: dict[str, Any]) -> None:
        (tenant, region), (start, _) = key
        await rows.send(key=f"{tenant}|{region}".encode(), value=row(tenant, region, start, state))

    demand = app.Table(
        "demand", default=dict, partitions=PARTITIONS, on_window_close=closed
    ).tumbling(MINUTE, expires=GRACE)  # fmt: skip
    faust.tables.base.time = _LatestWindow(demand.table)

    @app.agent(source)  # type: ignore[untyped-decorator]
    async def aggregate(events: Any) -> None:
        async for event in events:
            key = event.tenant, event.region
            demand[key] = added(demand[key].value(), event)

    faust.Worker(app, loglevel="error", redirect_stdouts=False, quiet=True).execute_from_commandline()


def added(state: Mapping[str, int], event: DemandEvent) -> dict[str, int]:
    """The aggregates of a window with one event more."""
    fare = event.fare
    if not state:
        state = {"events": 0, "booking": 0, "search": 0, "cancel": 0, "sum": 0, "squares": 0,
                 "least": fare, "greatest": fare}  # fmt: skip
    return {
        **state,
        "events": state["events"] + 1,
        event.kind: state[event.kind] + 1,
        "sum": state["sum"] + fare,
        "squares": state["squares"] + fare * fare,
        "least": min(state["least"], fare),
        "greatest": max(state["greatest"], fare),
    }


def row(tenant: str, region: str, start: float, state: Mapping[str, int]) -> dict[str, Any]:
    """The feature row of a window."""
    begin = datetime.fromtimestamp(start, UTC)
    end = begin + MINUTE
    events, total = state["events"], state["sum"]
    return {
        "tenant": tenant,
        "id": row_id(region, end, 0),
        "entity": region,
        "region": region,
        "window_start": begin,
        "window_end": end,
        "sequence": 0,
        "bookings": state["booking"],
        "searches": state["search"],
        "cancels": state["cancel"],
        "conversion": state["booking"] / state["search"] if state["search"] else None,
        "fare_sum": total,
        "fare_mean": total / events,
        "fare_std": math.sqrt(events * state["squares"] - total * total) / events,
        "fare_min": state["least"],
        "fare_max": state["greatest"],
    }


if __name__ == "__main__":
    main(sys.argv[1])
