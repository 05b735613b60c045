"""User events for the tests of demand: two regions over parts of three days."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import strategies as st

from schemas.catalog.user_events import UserEvent

NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)


def event(number: int, at: datetime, kind: str, region: str = "north") -> UserEvent:
    return UserEvent(
        tenant="t", id=str(number), user_id=f"u{number % 7}", region=region, kind=kind, occurred_at=at
    )


def as_table(events: list[UserEvent]) -> pa.Table:
    schema = pa.schema(
        [
            (field.name, pa.timestamp("ms", tz="UTC") if field.kind == "time" else pa.string())
            for field in UserEvent.spec().fields
        ]
    )
    rows = [{name: getattr(one, name) for name in schema.names} for one in events]
    return pa.Table.from_pylist(rows, schema=schema)


@st.composite
def streams(draw: st.DrawFn) -> list[UserEvent]:
    """Two regions, over an hour of three days: today, yesterday, a week ago."""
    days = st.sampled_from([0, 1, 7])
    return [
        event(
            number,
            NOON - timedelta(days=draw(days), seconds=draw(st.integers(0, 4_200))),
            draw(st.sampled_from(["booking", "booking", "search", "cancel", "opened"])),
            draw(st.sampled_from(["north", "south"])),
        )
        for number in range(draw(st.integers(1, 40)))
    ]
