"""A Feast feature store of the tests' own: real Redis, a registry in a folder, three views and a service."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import feast
import pyarrow as pa
import redis
from deltalake import write_deltalake

from core.settings import Settings
from features.catalog.card_activity import CARD_ACTIVITY
from features.feature_rows import WINDOW_END
from features.on_feast.repository import apply, feature_store
from features.online.client import connect
from features.online.layout import layout_of
from features.online.packed import PackedLayout, Value
from features.online.packed_reader import PackedReader
from features.online.packed_redis import RedisPackedValues
from features.online.packed_writer import Outcome, PackedRow, PackedWriter
from features.services import service
from schemas.keys import entity_of
from tests.features.redis_server import RedisServer
from tests.features.training_rows import DEMAND
from tests.features.views import VIEW

RIDE = service("ride", DEMAND, (VIEW, ["count_60s", "mean_60s"]))
READABLE = ("fresh", "stale")


@dataclass(frozen=True)
class World:
    """store: Feast's own client over our stores. layout: of DEMAND."""

    store: feast.FeatureStore
    settings: Settings
    client: redis.Redis
    layout: PackedLayout

    def write(self, rows: Sequence[PackedRow]) -> list[Outcome]:
        return PackedWriter(RedisPackedValues(self.client), self.layout).write(rows)

    def read(self, tenant: str, city: str, zone: str, names: Sequence[str]) -> dict[str, Value]:
        """What our reader says, with null for what it does not have or has no longer."""
        reader = PackedReader(RedisPackedValues(self.client))
        found = reader.read(self.layout, tenant, entity_of((city, zone)))
        values, statuses = found.values, found.statuses
        return {name: values[name] if statuses[name] in READABLE else None for name in names}

    def stored(self, tenant: str, city: str, zone: str) -> bytes | None:
        found = self.client.get(self.layout.key(tenant, entity_of((city, zone))))
        assert found is None or isinstance(found, bytes)
        return found


@contextmanager
def feast_world(server: RedisServer, folder: Path, *, registry: str | None = None) -> Iterator[World]:
    settings = server.settings.model_copy(update={"home": folder})
    store = feature_store(settings, registry=registry)
    views = (DEMAND, VIEW, CARD_ACTIVITY)
    apply(store, views, [RIDE], history={view.name: history(folder, view.name) for view in views})
    with connect(settings) as client:
        yield World(store, settings, client, layout_of(DEMAND))


def history(folder: Path, name: str) -> Path:
    """Where a view's rows lie."""
    return folder / "delta" / name


def ago(seconds: float) -> datetime:
    """So long ago, in whole milliseconds."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000) - timedelta(seconds=seconds)


def millis(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def demand(at: datetime, **more: Any) -> dict[str, Any]:
    """A row as it is pushed to Feast."""
    row = {"tenant": "t", "city": "a", "zone": "z", WINDOW_END: at}
    values = {"rides": 3, "fares": -7, "tips": 0.25, "last_kind": "ü|", "was_shared": True, "doubled": 6}
    return row | values | more


def packed(row: Mapping[str, Any], sequence: int = 0) -> PackedRow:
    """The same row for our writer."""
    values = [row[name] for name in DEMAND.feature_names]
    return PackedRow(
        row["tenant"], entity_of((row["city"], row["zone"])), millis(row[WINDOW_END]), sequence, values
    )


FEATURE_ROWS = pa.schema(
    [
        ("tenant", pa.string()), ("city", pa.string()), ("zone", pa.string()),
        ("window_end", pa.timestamp("us", tz="UTC")), ("sequence", pa.int64()), ("rides", pa.int64()),
        ("fares", pa.int64()), ("tips", pa.float64()), ("last_kind", pa.string()),
        ("was_shared", pa.bool_()), ("doubled", pa.int64()), ("date", pa.date32()),
    ]
)  # fmt: skip


def record(folder: Path, rows: Sequence[Mapping[str, Any]], *, mode: str = "append") -> None:
    """Write feature rows to the Delta table, as the offline store has them."""
    dated = [{"sequence": 0, "date": row[WINDOW_END].date()} | dict(row) for row in rows]
    table = pa.Table.from_pylist(dated, schema=FEATURE_ROWS)
    write_deltalake(history(folder, "demand"), table, partition_by=["date"], mode=mode)
