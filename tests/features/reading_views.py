"""Views of each shape and entity for the tests of reading, and rows in their stores."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import redis

from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.online.layout import layout_of
from features.online.packed_redis import RedisPackedValues
from features.online.packed_values import PackedValues
from features.online.packed_writer import PackedRow, PackedWriter
from features.online.selection import Readable
from features.services import service
from features.view import Count, Feature, FeatureView, Mean, Tumbling
from schemas.keys import entity_of
from tests.features.rides import Ride
from tests.features.views import VIEW

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ZONES = FeatureView(
    name="zones",
    version=1,
    source=Ride,
    entity=("city", "zone"),
    disorder=timedelta(0),
    window=Tumbling(timedelta(minutes=1)),
    features=(
        Feature("rides", Count(), unit="rides", empty=0),
        Feature("mean_fare", Mean("fare"), unit="cents", ttl=timedelta(minutes=2)),
    ),
    ttl=timedelta(minutes=10),
)
RIDE = service("ride", (REGIONAL_DEMAND, ["bookings", "conversion"]), ZONES)
CARDS = service("cards", (CARD_ACTIVITY, ["count_1h", "amount_sum_24h"]), VIEW)
READABLE = Readable((CARD_ACTIVITY, REGIONAL_DEMAND, ZONES, VIEW), (RIDE, CARDS))


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def put(
    values: PackedValues, view: FeatureView, entity: tuple[str, ...], end: datetime, given: tuple[object, ...]
) -> None:
    """A packed value of tenant t."""
    row = PackedRow("t", entity_of(entity), int(end.timestamp() * 1000), 0, given)  # type: ignore[arg-type]
    assert PackedWriter(values, layout_of(view)).write([row]) == ["written"]


def put_all(client: redis.Redis) -> None:
    """A region and two zones, fresh, stale and expired."""
    values = RedisPackedValues(client)
    put(values, REGIONAL_DEMAND, ("north",), ago(10), (12, 4, 1, 3.0, 9.5, 0.25, 11, 0))
    put(values, REGIONAL_DEMAND, ("south",), ago(100), (2, 0, 1, None, 9.5, 0.25, 11, 0))
    put(values, ZONES, ("york", "a|b%"), ago(121), (7, 3.5))


def put_of_another_layout(client: redis.Redis) -> None:
    """The zone "other", as a view with one feature more would have it."""
    wider = replace(ZONES, features=(*ZONES.features, Feature("more", Count(), unit="rides")))
    put(RedisPackedValues(client), wider, ("york", "other"), ago(1), (7, 3.5, 1))
