"""Rides as events: as many an hour as the data says, within that hour, of the last days only."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.errors import Unavailable
from core.settings import settings
from jobs.sources.rides import ROWS, convert, hours, user_events
from schemas.catalog.user_events import UserEvent
from schemas.codec import arrow_schema

LINES = b""""date","ts","count","tmin","tmax","pn"
2019-08-30,2019-08-30 23:00:00,5,1,2,0
2019-08-31,2019-08-31 00:00:00,3,1,2,0
2019-08-31,2019-08-31 01:00:00,0,1,2,0
2019-08-31,2019-08-31 02:00:00,7,1,2,0
"""


def test_every_ride_is_a_booking_in_its_hour() -> None:
    events = user_events(convert(LINES), days=1)
    assert events.schema == arrow_schema(UserEvent.spec())
    counted: dict[str, int] = {}
    for at in events["occurred_at"].to_pylist():
        hour = f"{at:%d %H}"
        counted[hour] = counted.get(hour, 0) + 1
    assert counted == {"30 23": 5, "31 00": 3, "31 02": 7}
    assert events["occurred_at"].to_pylist() == sorted(events["occurred_at"].to_pylist())
    assert len(set(events["id"].to_pylist())) == 15
    assert set(events["kind"].to_pylist()) == {"booking"}


def test_only_the_last_days_are_made() -> None:
    lines = b'"date","ts","count","tmin","tmax","pn"\n' + b"".join(
        b"d,2019-08-%02d %02d:00:00,2,1,2,0\n" % (1 + at // 24, at % 24) for at in range(72)
    )
    hours = convert(lines)
    assert isinstance(hours, pa.Table)
    assert user_events(hours, days=1).num_rows == 24 * 2


def test_a_gap_is_refused() -> None:
    with pytest.raises(Unavailable, match="gaps"):
        convert(LINES.replace(b"2019-08-31 01", b"2019-08-31 09"))


def test_the_real_rides_are_the_same_for_ever() -> None:
    """Only where the data has been downloaded: no test downloads data."""
    if not list((settings().cache / "data").glob("rides-*.parquet")):
        pytest.skip("NOT TESTED: the ride data has not been downloaded")
    table = hours()
    assert table.num_rows == ROWS
    assert pc.sum(table["rides"]).as_py() == 24_975_577
