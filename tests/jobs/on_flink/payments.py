"""A small stream for the tests of the Flink side: card payments, their view, their pattern, their topics."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from features.compile.flink import Stream
from features.enriched import enriched_record
from features.patterns import Pattern, Step, Where
from features.view import Count, CountDistinct, Feature, FeatureView, Max, Mean, Std, Sum
from schemas.catalog.alerts import Alert
from schemas.record import Int32, Record, record
from schemas.topic import Topic


@record(entity="card_id", time="occurred_at", namespace="millstream.tests")
class Payment(Record, frozen=True, kw_only=True):
    """A payment of the tests."""

    card_id: str
    occurred_at: datetime
    amount_cents: int
    email_domain: str | None = None
    channel: Int32 | None = None
    weight: float = 0.5


def _over(label: str, window: timedelta) -> tuple[Feature, ...]:
    return (
        Feature(f"count_{label}", Count(over=window), unit="payments", empty=0),
        Feature(f"sum_{label}", Sum("amount_cents", over=window), unit="cents", empty=0),
        Feature(f"mean_{label}", Mean("amount_cents", over=window), unit="cents"),
        Feature(f"std_{label}", Std("amount_cents", over=window), unit="cents"),
        Feature(f"max_{label}", Max("amount_cents", over=window), unit="cents"),
        Feature(f"domains_{label}", CountDistinct("email_domain", over=window), unit="domains", empty=0),
        Feature(f"channels_{label}", Sum("channel", over=window), unit="channels", empty=0),
        Feature(f"channel_std_{label}", Std("channel", over=window), unit="channels"),
    )


ACTIVITY = FeatureView(
    name="activity",
    version=1,
    source=Payment,
    entity="card_id",
    disorder=timedelta(milliseconds=500),
    features=_over("5s", timedelta(seconds=5)) + _over("1m", timedelta(minutes=1)),
    ttl=timedelta(minutes=2),
)
TESTING = Pattern(
    name="testing",
    version=1,
    source=Payment,
    entity="card_id",
    steps=(
        Step("small", Where("amount_cents", "<=", 100), at_least=3, or_more=True),
        Step("large", Where("amount_cents", ">=", 10_000)),
    ),
    within=timedelta(minutes=1),
    severity="high",
    text="{small.count} small, then {amount_cents} on {card_id}",
)
EnrichedPayment = enriched_record(Payment, ACTIVITY)


@dataclass(frozen=True)
class Names:
    """Topics and job of one test; `label` keeps tests apart on one broker."""

    label: str
    partitions: int = 3

    @property
    def stream(self) -> Stream:
        def named(kind: str) -> str:
            return f"test.{self.label}.{kind}.v1"

        return Stream(
            pipeline=self.label,
            source=Topic(named("events"), Payment, partitions=self.partitions),
            view=ACTIVITY,
            patterns=(TESTING,),
            enriched=Topic(named("enriched"), EnrichedPayment, partitions=self.partitions, append_time=True),
            alerts=Topic(named("alerts"), Alert, partitions=1),
        )
