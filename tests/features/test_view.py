"""Views and patterns say at build time what is wrong with them, and have a digest of what they mean."""

from dataclasses import replace
from datetime import timedelta

import pytest

from core.errors import DeclarationError, UnknownName
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.card_testing import CARD_TESTING
from features.enriched import enriched_record
from features.patterns import Step, Where
from features.view import Count, CountDistinct, Feature, Max, Mean, Std, Sum
from schemas.catalog.transactions import Transaction
from tests.features.views import VIEW, Swipe

HOUR = timedelta(hours=1)


def with_feature(aggregate: object) -> None:
    feature = Feature("new", aggregate, unit="x")  # type: ignore[arg-type]
    replace(VIEW, features=(*VIEW.features, feature), ttl=timedelta(days=30))


def test_card_activity_has_six_features_over_four_windows() -> None:
    assert len(CARD_ACTIVITY.features) == 24
    assert CARD_ACTIVITY.feature_names[:6] == (
        "count_10m", "amount_sum_10m", "amount_mean_10m", "amount_std_10m", "amount_max_10m",
        "email_domains_10m",
    )  # fmt: skip
    assert [window.total_seconds() for window in CARD_ACTIVITY.windows] == [600, 3600, 86400, 604800]
    assert CARD_ACTIVITY.columns == ("amount_cents", "email_domain")


def test_an_unknown_column_names_the_nearest_one() -> None:
    with pytest.raises(UnknownName) as error:
        with_feature(Sum("cent", over=HOUR))
    assert error.value.nearest == "cents"


@pytest.mark.parametrize(
    "aggregate",
    [
        Sum("domain", over=HOUR),
        Mean("at", over=HOUR),
        Std("trusted", over=HOUR),
        Max("domain", over=HOUR),
        CountDistinct("weight", over=HOUR),
        Count(over=timedelta(milliseconds=1500)),
        Count(over=timedelta(0)),
        Count(over=timedelta(days=100)),
    ],
)
def test_what_cannot_be_computed_is_refused(aggregate: object) -> None:
    with pytest.raises(DeclarationError):
        with_feature(aggregate)


@pytest.mark.parametrize(
    "change",
    [
        {"features": ()},
        {"features": (VIEW.features[0], VIEW.features[0])},
        {"features": (replace(VIEW.features[0], name="cents"),)},
        {"ttl": timedelta(seconds=59)},
        {"version": 0},
        {"name": "Swipes"},
        {"entity": "channel"},
        {"disorder": timedelta(seconds=-1)},
        {"tolerance": 1.0},
    ],
)
def test_a_view_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DeclarationError) as error:
        replace(VIEW, **change)  # type: ignore[arg-type]
    assert error.value.mend


def test_an_unknown_entity_is_refused() -> None:
    with pytest.raises(UnknownName):
        replace(VIEW, entity="carde")


def test_the_digest_changes_with_the_meaning_and_not_with_the_way_it_is_run() -> None:
    operational = replace(VIEW, disorder=timedelta(seconds=9), ttl=timedelta(days=9), tolerance=1e-6)
    assert operational.digest == VIEW.digest
    assert replace(VIEW, version=2).digest != VIEW.digest
    assert replace(VIEW, features=VIEW.features[:-1]).digest != VIEW.digest
    first = replace(VIEW.features[0], empty=None)
    assert replace(VIEW, features=(first, *VIEW.features[1:])).digest != VIEW.digest


def test_kinds_follow_the_columns() -> None:
    kinds = {feature.name: VIEW.kind(feature) for feature in VIEW.features}
    assert kinds["count_10s"] == kinds["sum_10s"] == kinds["max_10s"] == kinds["domains_10s"] == "long"
    assert kinds["channels_10s"] == "long"
    assert kinds["mean_10s"] == kinds["std_10s"] == kinds["weight_10s"] == "double"


def test_the_enriched_record_has_the_event_the_features_and_where_it_came_from() -> None:
    spec = enriched_record(Swipe, VIEW).spec()
    assert spec.names == (
        *Swipe.spec().names, *VIEW.feature_names, "late", "received_at", "source", "traceparent",
    )  # fmt: skip
    assert all(spec.field(name).nullable for name in VIEW.feature_names)
    assert spec.field("count_10s").kind == "long"
    assert spec.field("std_10s").kind == "double"
    with pytest.raises(DeclarationError):
        enriched_record(Transaction, VIEW)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": CARD_TESTING.steps[:1]},
        {"steps": (CARD_TESTING.steps[0], replace(CARD_TESTING.steps[1], or_more=True))},
        {"steps": (CARD_TESTING.steps[0], replace(CARD_TESTING.steps[1], name="small"))},
        {"within": timedelta(0)},
        {"text": "{small.sum} payments"},
        {"steps": (Step("small", Where("email_domain", "<", 1)), CARD_TESTING.steps[1])},
    ],
)
def test_a_pattern_that_cannot_match_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DeclarationError):
        replace(CARD_TESTING, **change)  # type: ignore[arg-type]


def test_a_text_may_only_name_fields_and_steps() -> None:
    with pytest.raises(UnknownName) as error:
        replace(CARD_TESTING, text="{amount_cent}")
    assert error.value.nearest == "amount_cents"
    with pytest.raises(UnknownName):
        replace(CARD_TESTING, text="{smal.count}")
