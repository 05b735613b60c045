"""Forecasts in PostgreSQL: the first per (tenant, pipeline, id), whole, for whoever asks later."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from jobs.writer.postgres import PostgresConnection
from pipelines.tables import from_arrays, insert_from_arrays
from schemas.catalog.forecasts import Forecast

_COLUMNS = {
    "tenant": "text", "pipeline": "text", "id": "text", "entity": "text", "window_end": "timestamptz",
    "sequence": "bigint", "model": "text", "model_version": "text", "made_at": "timestamptz",
    "forecast": "jsonb", "stored_at": "timestamptz",
}  # fmt: skip
_KEYS = {"tenant": "text", "pipeline": "text", "id": "text"}
_STORE = insert_from_arrays("forecasts", _COLUMNS, "ON CONFLICT (tenant, pipeline, id) DO NOTHING")
_STORED = f"""
SELECT f.forecast::text FROM {from_arrays(_KEYS, "k")}
JOIN forecasts AS f USING (tenant, pipeline, id) ORDER BY f.tenant, f.pipeline, f.id
"""


class PostgresForecastStore(PostgresConnection):
    """For one thread; see `PostgresConnection`."""

    def store(self, forecasts: Sequence[Forecast], at: datetime) -> list[Forecast]:
        """Those that are stored under the ids of `forecasts` once this has returned: what was there before
        stays. Raises Unavailable, or BadRecord for what PostgreSQL cannot take."""
        given = {(one.tenant, one.pipeline, one.id): one for one in reversed(forecasts)}
        if not given:
            return []
        keys = sorted(given)
        rows = [_row(given[key], at) for key in keys]
        with self._open() as connection:
            connection.execute(_STORE, [list(column) for column in zip(*rows, strict=True)])
            found = connection.execute(_STORED, [list(column) for column in zip(*keys, strict=True)])
            return [msgspec.json.decode(row[0], type=Forecast) for row in found.fetchall()]


def _row(one: Forecast, at: datetime) -> tuple[Any, ...]:
    computed = {"forecast": msgspec.json.encode(one).decode(), "stored_at": at}
    return tuple(computed[name] if name in computed else getattr(one, name) for name in _COLUMNS)
