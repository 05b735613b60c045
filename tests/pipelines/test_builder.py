"""Pipelines are checked when they are planned: order, names, records, partitions, a default output."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import DeclarationError, InvalidInput, MillstreamError, UnknownName
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.card_testing import CARD_TESTING
from features.catalog.demand_history import DEMAND_DAYS
from features.catalog.merchant_activity import MERCHANT_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.view import Count, Feature
from operators.forecast import Horizon
from pipelines.builder import DEAD_LETTERS, Pipeline, pipeline
from pipelines.catalog.demand import LATE, ROWS, demand
from pipelines.catalog.forecasts import LATE as LATE_DAYS
from pipelines.catalog.forecasts import RESULTS as FORECASTS
from pipelines.catalog.forecasts import ROWS as DAYS
from pipelines.catalog.forecasts import STATUS as STORED
from pipelines.catalog.fraud import BANDS, ENRICHED, LABELS, RESULTS, STATUS, TRANSACTIONS, fraud
from pipelines.load import load_features, load_plan, load_plans, load_scoring
from pipelines.plan import ForecastPlan, Levels, Plan, Reuse, ScoringPlan
from pipelines.text import plan_text
from schemas.catalog.purchases import PURCHASES
from schemas.catalog.transactions import Transaction
from schemas.catalog.user_events import USER_EVENTS
from schemas.topic import Topic

COUNTED = replace(
    REGIONAL_DEMAND,
    source=Transaction,
    entity="card_id",
    features=(Feature("payments", Count(), unit="payments", empty=0),),
)
GOLDEN = Path(__file__).parents[1] / "golden" / "plan"


def whole(p: Pipeline, *, source: Topic = TRANSACTIONS, results: Topic = RESULTS) -> None:
    scored = p.read(source).enrich(CARD_ACTIVITY, to=ENRICHED).infer("fraud")
    p.write(scored.ok.decide(BANDS).ok, results)
    p.follow(status=STATUS, labels=LABELS)


@pytest.mark.parametrize("name", sorted(load_plans()))
def test_the_plan_of_a_shipped_pipeline_is_the_golden_one(name: str) -> None:
    assert plan_text(load_plan(name)) == (GOLDEN / f"{name}.txt").read_text(), (
        f"the plan changed; if that is meant, run `millstream plan {name} --text` into the golden file"
    )


def test_the_shipped_pipelines_are_found_by_their_entry_points() -> None:
    assert load_plan("fraud") == fraud.plan()
    assert load_plan("demand") == demand.plan()


def test_a_plan_of_the_other_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="scores nothing"):
        load_scoring("demand")
    with pytest.raises(InvalidInput, match="no windowed view"):
        load_features("fraud")


def test_an_unknown_pipeline_suggests_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="frud") as caught:
        load_plan("frud")
    assert caught.value.nearest == "fraud"


def test_a_pipeline_without_a_default_output_does_not_plan() -> None:
    with pytest.raises(DeclarationError, match="default output"):
        pipeline("t", version=1)(whole).plan()


def test_a_missing_part_is_named() -> None:
    def nothing(p: Pipeline) -> None:
        p.read(TRANSACTIONS)

    with pytest.raises(DeclarationError, match="no view"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(nothing).plan()


def test_two_steps_of_one_name_are_refused() -> None:
    def twice(p: Pipeline) -> None:
        events = p.read(TRANSACTIONS)
        events.enrich(CARD_ACTIVITY, to=ENRICHED, step="read")

    with pytest.raises(DeclarationError, match="two steps named 'read'"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(twice).plan()


def test_a_topic_of_another_record_is_refused() -> None:
    with pytest.raises(DeclarationError, match="holds StatusChange"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(lambda p: whole(p, results=STATUS)).plan()


def test_topics_of_one_path_have_equal_partition_counts() -> None:
    wider = replace(RESULTS, partitions=8)
    with pytest.raises(DeclarationError, match="8 partitions"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(lambda p: whole(p, results=wider)).plan()


def test_a_view_of_the_other_shape_is_refused_with_the_right_call() -> None:
    def windowed(p: Pipeline) -> None:
        p.read(USER_EVENTS).enrich(REGIONAL_DEMAND, to=ROWS)

    def rolling(p: Pipeline) -> None:
        p.read(TRANSACTIONS).window(CARD_ACTIVITY, to=ROWS, late=LATE)

    with pytest.raises(DeclarationError, match="is windowed") as caught:
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(windowed).plan()
    assert "window(...)" in (caught.value.mend or "")
    with pytest.raises(DeclarationError, match="is rolling"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(rolling).plan()


def asked(reuse: Reuse) -> Plan:
    def build(p: Pipeline) -> None:
        p.ask(reuse=reuse)
        whole(p)

    return pipeline("t", version=1, unrouted=DEAD_LETTERS)(build).plan()


def test_whether_an_answer_is_given_again_stands_in_the_plan() -> None:
    made = asked(Reuse(timedelta(seconds=30)))
    assert isinstance(made, ScoringPlan)
    assert made.reuse == Reuse(timedelta(seconds=30))
    assert "an answer is given again for 30 s, to the same question as of the same time\n" in plan_text(made)
    more = Reuse(timedelta(minutes=1), as_of=timedelta(seconds=5), ignored=("device_info", "product"))
    said = "for 1 min, to the same question as of the same 5 s, whatever its device_info, product\n"
    assert said in plan_text(asked(more))
    silent = pipeline("t", version=1, unrouted=DEAD_LETTERS)(whole).plan()
    assert isinstance(silent, ScoringPlan)
    assert silent.reuse is None
    assert "given again" not in plan_text(silent)


@pytest.mark.parametrize(
    ("reuse", "message"),
    [
        (Reuse(timedelta(0)), "given again for 0:00:00"),
        (Reuse(timedelta(days=2)), "given again for 2 days"),
        (Reuse(timedelta(1), as_of=timedelta(-1)), "as of the same -1 day"),
        (Reuse(timedelta(1), ignored=("card_id",)), "whatever the card_id"),
        (Reuse(timedelta(1), ignored=("occurred_at",)), "whatever the occurred_at"),
        (Reuse(timedelta(1), ignored=("id",)), "whatever the id"),
        (Reuse(timedelta(1), ignored=("devise_info",)), "unknown field 'devise_info'"),
    ],
)
def test_a_reuse_that_makes_no_sense_does_not_plan(reuse: Reuse, message: str) -> None:
    with pytest.raises(MillstreamError, match=message):
        asked(reuse)


def test_a_pattern_beside_a_windowed_view_is_refused() -> None:
    def both(p: Pipeline) -> None:
        events = p.read(TRANSACTIONS)
        events.window(COUNTED, to=ROWS, late=LATE)
        events.alert_on(CARD_TESTING)

    with pytest.raises(DeclarationError, match="beside a windowed view"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(both).plan()


def test_a_route_needs_a_pipeline_that_takes_events() -> None:
    def closed(p: Pipeline) -> None:
        p.read(USER_EVENTS, takes_events=False, route="/events").window(REGIONAL_DEMAND, to=ROWS, late=LATE)

    with pytest.raises(DeclarationError, match="route '/events'"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(closed).plan()


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (Levels(decision="allow"), "which no band decides"),
        (Levels(live=timedelta(0)), "level live has 0:00:00"),
        (Levels(previous_version=timedelta(minutes=2)), "level previous_version has 0:02:00"),
    ],
)
def test_levels_that_make_no_sense_are_refused(levels: Levels, said: str) -> None:
    def built(p: Pipeline) -> None:
        whole(p)
        p.ask(levels=levels)

    with pytest.raises(DeclarationError, match=said):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(built).plan()


def forecast_of(**changes: Any) -> Plan:
    def made(p: Pipeline) -> None:
        rows = p.read(USER_EVENTS, takes_events=False).window(DEMAND_DAYS, to=DAYS, late=LATE_DAYS)
        given: dict[str, Any] = {
            "counted": "bookings", "model": "m", "scale": "bookings_28d", "horizons": (Horizon("week", 7),)
        }  # fmt: skip
        given |= changes
        p.write(rows.forecast(given.pop("counted"), **given).ok, FORECASTS)
        p.store(status=STORED)

    return pipeline("t", version=1, unrouted=DEAD_LETTERS)(made).plan()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counted": "booking"}, "bookings"),
        ({"scale": "bookings_29d"}, "bookings_28d"),
        ({"horizons": ()}, "without any"),
        ({"horizons": (Horizon("week", 7), Horizon("week", 8))}, "a name of its own"),
        ({"horizons": (Horizon("week", 0),)}, "without a window of the future"),
        ({"horizons": (Horizon("week", 7, lead=-1),)}, "without a window of the future"),
        ({"batch": 0}, "a batch of 0"),
    ],
)
def test_a_forecast_that_cannot_be_made_does_not_plan(changes: dict[str, Any], reason: str) -> None:
    assert isinstance(forecast_of(), ForecastPlan)
    with pytest.raises((DeclarationError, UnknownName), match=reason):
        forecast_of(**changes)


def test_forecasts_that_are_not_stored_do_not_plan() -> None:
    def unstored(p: Pipeline) -> None:
        rows = p.read(USER_EVENTS, takes_events=False).window(DEMAND_DAYS, to=DAYS, late=LATE_DAYS)
        made = rows.forecast("bookings", model="m", scale="bookings_28d", horizons=(Horizon("week", 7),))
        p.write(made.ok, FORECASTS)

    with pytest.raises(DeclarationError, match="no status"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(unstored).plan()


def test_forecasts_from_windows_that_overlap_are_refused() -> None:
    def hopping(p: Pipeline) -> None:
        rows = p.read(PURCHASES).window(MERCHANT_ACTIVITY, to=ROWS, late=LATE)
        rows.forecast("purchases", model="m", scale="purchases", horizons=(Horizon("week", 7),))

    with pytest.raises(DeclarationError, match="do not follow each other"):
        pipeline("t", version=1, unrouted=DEAD_LETTERS)(hopping).plan()
