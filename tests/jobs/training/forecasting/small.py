"""Little forecasts for tests: days of generated bookings, few and shallow trees."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from msgspec.structs import replace

from jobs.sources import demand, generated_baskets
from pipelines.training.configuration import Configuration, Evaluation, Forecast, Range, Search, Trees
from pipelines.training.reading import shipped
from schemas.catalog.user_events import UserEvent
from schemas.codec import arrow_schema

SHIPPED = shipped("demand")
assert SHIPPED.forecast is not None
FORECAST: Forecast = replace(SHIPPED.forecast, window_days=14, prophet=False, prophet_days=14)
QUICK: Configuration = replace(
    SHIPPED,
    forecast=FORECAST,
    trees=Trees(engine="lightgbm", trees=20, depth=3, learning_rate=0.2),
    search=Search(trials=0, metric="mape", space=SHIPPED.search.space),
    evaluation=Evaluation(origins=2),
)
SEARCHED: Configuration = replace(
    QUICK,
    search=Search(
        trials=5,
        folds=2,
        parallel=2,
        startup=2,
        metric="mape",
        space={"trees": Range(5, 12), "depth": Range(2, 4), "learning_rate": Range(0.1, 0.5, log=True)},
    ),
)
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday


def market(baskets: int = 60_000) -> pa.Table:
    """About 140 days of user events in eight regions."""
    return demand.user_events(generated_baskets.generate(baskets, seed=1))


def bookings(counts: dict[str, list[int]], *, begin: datetime = BEGIN, tenant: str = "a") -> pa.Table:
    """As many bookings per region and day; one more region books just before the first day and just after
    the last, so that all of these days are whole."""
    days = max(len(per_day) for per_day in counts.values())
    rows = [("elsewhere", begin - timedelta(seconds=1)), ("elsewhere", begin + timedelta(days=days))]
    for region, per_day in counts.items():
        for day, count in enumerate(per_day):
            for number in range(count):
                rows.append((region, begin + timedelta(days=day, seconds=number)))
    rows.sort(key=lambda row: row[1])
    return pa.table(
        {
            "tenant": [tenant] * len(rows),
            "id": [f"e{number}" for number in range(len(rows))],
            "user_id": ["u"] * len(rows),
            "region": [region for region, _ in rows],
            "kind": ["booking"] * len(rows),
            "occurred_at": pa.array([at for _, at in rows], pa.timestamp("ms", tz="UTC")),
        },
        schema=arrow_schema(UserEvent.spec()),
    )


def counted(days: int, mean: float, seed: int) -> list[int]:
    return [int(count) for count in np.random.default_rng(seed).poisson(mean, days)]
