"""Training sets against Feast's default offline store, and against bare DuckDB.

    training_set           Feast's `get_historical_features(...).to_df()` on its default (Dask) offline store
                           over ours to a data frame: same entity rows, same features, same Parquet file
    training_set_vs_asof   ours over one `ASOF LEFT JOIN` written by hand for these tables, both to Arrow:
                           entities in memory, feature rows in a Parquet file

The feature rows are minutes of devices, a fifth of them absent, in no order; of the entity rows some are of
devices that have none. No value is older than its time to live, which the hand-written query does not ask
for and whose expiry makes Feast drop the entity row. Feast has no tenant in its key.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import feast
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.types import Float64, String
from feast.value_type import ValueType

from bench.features_goals import GOALS
from bench.harness import BenchResult, Ratio, compare, control, require_equal, typical, versions, wall_time
from bench.registry import text
from features.offline.training import FeatureRows, column_of, training_set
from features.view import Feature, FeatureView, Mean, Tumbling
from schemas.record import Record, record

FEATURES = 12
TIME = "event_timestamp"  # as Feast calls it
PRESENT, KNOWN = 0.8, 0.98
BEGIN_MS = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1000)
MINUTE = timedelta(minutes=1)
MINUTE_MS = 60_000
PACKAGES = ("feast", "dask", "pandas", "duckdb", "pyarrow")


@dataclass(frozen=True)
class Size:
    """So many entity rows over so many minutes of so many devices of each tenant."""

    entities: int
    tenants: int
    devices: int
    minutes: int


# Feast joins every entity row with all rows of its device first: more than a million, some seconds.
FEAST = Size(entities=4_000, tenants=1, devices=100, minutes=400)
ASOF = Size(entities=20_000, tenants=2, devices=500, minutes=1_250)


@record(entity="device", time="measured_at", namespace="millstream.bench")
class Reading(Record, frozen=True, kw_only=True):
    """What a device measured."""

    device: str
    measured_at: datetime
    value: float


NAMES = tuple(f"mean_{number}" for number in range(FEATURES))
VIEW = FeatureView(
    name="readings",
    version=1,
    source=Reading,
    entity="device",
    disorder=timedelta(0),  # Feast and the hand-written query know no bound
    features=tuple(Feature(name, Mean("value"), unit="degrees") for name in NAMES),
    ttl=timedelta(days=30),
    window=Tumbling(MINUTE),
)
REFERENCES = [f"{VIEW.name}.{name}" for name in NAMES]
COLUMNS = [column_of(VIEW, name) for name in NAMES]


@dataclass(frozen=True)
class Tables:
    """entities: tenant, device, event_timestamp, row. rows: a Parquet file of tenant, device, window_end, the
    features; `count` of them."""

    entities: pa.Table
    rows: Path
    count: int

    def ours(self) -> pa.Table:
        return training_set(self.entities, REFERENCES, [FeatureRows(VIEW, self.rows)], time=TIME)

    def by_hand(self) -> pa.Table:
        """The same from bare DuckDB, in no order."""
        values = ", ".join(f'r.{name} AS "{column}"' for name, column in zip(NAMES, COLUMNS, strict=True))
        with duckdb.connect() as connection:
            connection.register("entities", self.entities)
            return connection.sql(
                f"SELECT e.*, {values} FROM entities e ASOF LEFT JOIN '{self.rows}' r "
                "ON e.tenant = r.tenant AND e.device = r.device AND e.event_timestamp >= r.window_end"
            ).to_arrow_table()


def bench(feast_size: Size = FEAST, asof_size: Size = ASOF) -> BenchResult:
    """Ratios `training_set` and `training_set_vs_asof`."""
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        small = tables(feast_size, Path(folder) / "small.parquet")
        large = tables(asof_size, Path(folder) / "large.parquet")
        with _peer(small.rows, Path(folder)) as peer:
            against_feast, feast_s = _against_feast(small, peer)
        against_hand = _against_hand(large)
        ours_s = typical(wall_time(large.ours))
        return BenchResult(
            bench="features-training",
            ratios=[against_feast, against_hand],
            versions=versions(PACKAGES),
            sizes={
                "features of a training set": FEATURES,
                "entity rows, Feast": feast_size.entities,
                "feature rows, Feast": small.count,
                "entity rows, ASOF": asof_size.entities,
                "feature rows, ASOF": large.count,
            },
            figures={
                "training set, Feast ms": feast_s * 1e3,
                "training set, ours on Feast's rows ms": typical(wall_time(small.ours)) * 1e3,
                "training set, ours on the larger rows ms": ours_s * 1e3,
                "training set, bare ASOF ms": typical(wall_time(large.by_hand)) * 1e3,
                "training set, entity rows/s": asof_size.entities / ours_s,
            },
            control=control(wall_time(large.ours)),
        )


def tables(size: Size, to: Path) -> Tables:
    """Tables of that size, the same each time."""
    dice = np.random.default_rng(20_260_301)
    names = [(f"tenant-{t}", f"device-{d}") for t in range(size.tenants) for d in range(size.devices)]
    owner, minute = np.divmod(np.arange(len(names) * size.minutes), size.minutes)
    kept = (dice.random(len(owner)) < PRESENT) | (minute == 0)
    order = dice.permutation(np.flatnonzero(kept))
    owner, ends = owner[order], BEGIN_MS + (minute[order] + 1) * MINUTE_MS
    rows = {
        "tenant": pa.array([tenant for tenant, _ in names]).take(pa.array(owner)),
        "device": pa.array([device for _, device in names]).take(pa.array(owner)),
        "window_end": pa.array(ends, pa.timestamp("ms", tz="UTC")).cast(pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(rows | {name: dice.normal(20.0, 5.0, len(order)) for name in NAMES}), to)
    whose = dice.integers(0, len(names), size.entities)
    known = dice.random(size.entities) < KNOWN
    at = BEGIN_MS + MINUTE_MS + dice.integers(0, size.minutes * MINUTE_MS, size.entities)
    entities = {
        "tenant": [names[number][0] for number in whose],
        "device": [names[n][1] if there else f"absent-{n}" for n, there in zip(whose, known, strict=True)],
        "event_timestamp": pa.array(at, pa.timestamp("ms", tz="UTC")).cast(pa.timestamp("us", tz="UTC")),
        "row": np.arange(size.entities),
    }
    return Tables(pa.table(entities), to, len(order))


def _against_feast(given: Tables, peer: feast.FeatureStore) -> tuple[Ratio, float]:
    """The ratio, and Feast's seconds."""
    entities = given.entities.drop_columns("tenant").to_pandas()

    def ours() -> pd.DataFrame:
        return given.ours().to_pandas()

    def theirs() -> pd.DataFrame:
        job = peer.get_historical_features(
            entity_df=entities,
            features=[f"{VIEW.name}:{name}" for name in NAMES],
            full_feature_names=True,
        )
        found: pd.DataFrame = job.to_df()
        return found

    _require_same("Feast's training set", given, pa.Table.from_pandas(theirs(), preserve_index=False))
    ratio = compare(
        "training_set",
        numerator=wall_time(theirs),
        denominator=wall_time(ours, times=3),
        goal=GOALS["training_set"].bound,
        meaning=f"time of a training set of {len(entities):,} rows: Feast's default offline store over ours",
    )
    return ratio, typical(wall_time(theirs), 1)


def _against_hand(given: Tables) -> Ratio:
    _require_same("the training set of bare DuckDB", given, given.by_hand())
    return compare(
        "training_set_vs_asof",
        numerator=wall_time(given.ours),
        denominator=wall_time(given.by_hand),
        goal=GOALS["training_set_vs_asof"].bound,
        at_most=GOALS["training_set_vs_asof"].at_most,
        meaning=f"time of a training set of {given.entities.num_rows:,} rows: ours over a bare ASOF JOIN",
    )


def _require_same(what: str, given: Tables, theirs: pa.Table) -> None:
    """Every entity row is there once, in both, with equal values."""
    ours = given.ours()
    require_equal(f"rows of {what}", ours.column("row"), given.entities.column("row"))
    theirs = theirs.sort_by("row")
    require_equal(f"entity rows of {what}", theirs.column("row").to_pylist(), ours.column("row").to_pylist())
    for column in COLUMNS:
        one, other = (table.column(column).to_numpy() for table in (ours, theirs))
        require_equal(f"{column} of {what}", bool(np.array_equal(one, other, equal_nan=True)), True)
    absent = sum(device.startswith("absent-") for device in given.entities.column("device").to_pylist())
    require_equal(f"rows without features in {what}", ours.column(COLUMNS[0]).null_count, absent)


@contextmanager
def _peer(rows: Path, folder: Path) -> Iterator[feast.FeatureStore]:
    store = feast.FeatureStore(
        config=feast.RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
    )
    device = feast.Entity(name="device", value_type=ValueType.STRING)
    view = feast.FeatureView(
        name=VIEW.name,
        entities=[device],
        schema=[
            feast.Field(name="device", dtype=String),
            *(feast.Field(name=name, dtype=Float64) for name in NAMES),
        ],
        ttl=VIEW.ttl,
        source=feast.FileSource(path=str(rows), timestamp_field="window_end"),
    )
    store.apply([device, view])
    yield store


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
