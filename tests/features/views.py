"""A small record and view for the tests of features: integers, floats, nulls, two windows."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import strategies as st

from features.view import Count, CountDistinct, Feature, FeatureView, Max, Mean, Std, Sum
from schemas.record import Int32, Record, record

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


@record(entity="card", time="at", namespace="millstream.tests")
class Swipe(Record, frozen=True, kw_only=True):
    card: str
    at: datetime
    cents: int
    channel: Int32 | None = None
    domain: str | None = None
    weight: float | None = None
    trusted: bool | None = None


def _over(label: str, window: timedelta) -> tuple[Feature, ...]:
    return (
        Feature(f"count_{label}", Count(over=window), unit="swipes", empty=0),
        Feature(f"sum_{label}", Sum("cents", over=window), unit="cents", empty=0),
        Feature(f"mean_{label}", Mean("cents", over=window), unit="cents"),
        Feature(f"std_{label}", Std("cents", over=window), unit="cents"),
        Feature(f"max_{label}", Max("cents", over=window), unit="cents"),
        Feature(f"channels_{label}", Sum("channel", over=window), unit="channels", empty=0),
        Feature(f"channel_max_{label}", Max("channel", over=window), unit="channels"),
        Feature(f"domains_{label}", CountDistinct("domain", over=window), unit="domains", empty=0),
        Feature(f"weight_{label}", Sum("weight", over=window), unit="kg"),
        Feature(f"weight_mean_{label}", Mean("weight", over=window), unit="kg"),
        Feature(f"trusted_{label}", CountDistinct("trusted", over=window), unit="answers", empty=0),
    )


VIEW = FeatureView(
    name="swipes",
    version=1,
    source=Swipe,
    entity="card",
    disorder=timedelta(milliseconds=50),
    features=_over("10s", timedelta(seconds=10)) + _over("60s", timedelta(seconds=60)),
    ttl=timedelta(seconds=90),
)

SCHEMA = pa.schema(
    [
        ("tenant", pa.string()), ("id", pa.string()), ("card", pa.string()),
        ("at", pa.timestamp("ms", tz="UTC")), ("cents", pa.int64()), ("channel", pa.int32()),
        ("domain", pa.string()), ("weight", pa.float64()), ("trusted", pa.bool_()),
    ]
)  # fmt: skip


def table(swipes: list[Swipe]) -> pa.Table:
    rows = [{name: getattr(swipe, name) for name in SCHEMA.names} for swipe in swipes]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def swipe(number: int, seconds: float, **more: object) -> Swipe:
    given: dict[str, object] = {"tenant": "t", "card": "a", "cents": 100} | more
    return Swipe(id=str(number), at=BEGIN + timedelta(seconds=seconds), **given)  # type: ignore[arg-type]


@st.composite
def swipes(draw: st.DrawFn, *, most: int = 40) -> list[Swipe]:
    """Few cards and a coarse clock, so that ties and window edges are common."""
    number = draw(st.integers(1, most))
    return [
        swipe(
            index,
            draw(st.integers(0, 160)) / 2,
            tenant=draw(st.sampled_from(["t", "u"])),
            card=draw(st.sampled_from(["a", "b|%"])),
            cents=draw(st.one_of(st.integers(0, 500), st.integers(10**10, 10**12))),
            channel=draw(st.one_of(st.none(), st.integers(-5, 5))),
            domain=draw(st.sampled_from([None, "x", "y", "ü'\""])),
            weight=draw(st.one_of(st.none(), st.integers(-40, 40).map(lambda n: n / 8))),
            trusted=draw(st.sampled_from([None, True, False])),
        )
        for index in range(number)
    ]
