"""Rows of a table as events."""

from datetime import UTC, datetime

import pyarrow as pa

from cli.demo.replay import ROWS_AT_ONCE, Events

AT = datetime(2026, 1, 2, tzinfo=UTC)


def test_rows_become_events_in_any_order() -> None:
    count = ROWS_AT_ONCE * 2 + 3
    table = pa.table(
        {
            "id": [f"t{n}" for n in range(count)],
            "tenant": ["x"] * count,
            "amount": [None if n % 2 else n for n in range(count)],
            "is_fraud": [0] * count,
        }
    )
    events = Events(table, run="r", label="is_fraud")
    for row in (0, 1, count - 1, ROWS_AT_ONCE, ROWS_AT_ONCE - 1, 2):
        wanted = {"id": f"r-t{row}", "occurred_at": AT}
        if not row % 2:
            wanted["amount"] = row
        assert events.at(row, AT) == wanted
