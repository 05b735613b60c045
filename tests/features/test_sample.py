"""The random events of a view's own run: as hard as they say, and the same for the same seed."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.merchant_activity import MERCHANT_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.judge.sample import Sample, sample
from features.offline.history import compute, first_per_id
from features.view import FeatureView

UNTIL = datetime(2026, 3, 4, 10, tzinfo=UTC)
SHIPPED = [CARD_ACTIVITY, REGIONAL_DEMAND, MERCHANT_ACTIVITY]
VIEWS = pytest.mark.parametrize("view", SHIPPED, ids=lambda view: view.name)


def made(view: FeatureView, seed: int = 1) -> Sample:
    return sample(view, rows=3_000, seed=seed, until=UNTIL)


@VIEWS
def test_the_same_seed_gives_the_same_events_and_another_others(view: FeatureView) -> None:
    assert made(view).events.equals(made(view).events)
    assert not made(view).events.equals(made(view, seed=2).events)


@VIEWS
def test_disorder_is_within_the_bound_but_for_the_late_ones(view: FeatureView) -> None:
    given = made(view)
    newest, seen, late = None, set(), set()
    names = ("tenant", "id", view.time)
    for tenant, id, at in zip(*(given.events.column(name).to_pylist() for name in names), strict=True):
        if (tenant, id) in seen:
            continue
        seen.add((tenant, id))
        if newest is not None and newest - at >= view.disorder:
            late.add((tenant, id))
        newest = at if newest is None else max(newest, at)
    assert late == given.late
    assert 10 < len(late) < 100
    assert newest is not None
    assert newest <= UNTIL


@VIEWS
def test_repeats_equal_times_and_several_tenants_are_there(view: FeatureView) -> None:
    events = made(view).events
    ids = Counter(zip(events.column("tenant").to_pylist(), events.column("id").to_pylist(), strict=True))
    assert 30 < sum(times - 1 for times in ids.values()) < 300
    assert len({tenant for tenant, _ in ids}) == 3
    times = Counter(events.column(view.time).to_pylist())
    assert sum(count > 1 for count in times.values()) > 100
    spread = max(times) - min(times)
    reach = timedelta(hours=1) if view is MERCHANT_ACTIVITY else timedelta(days=6)
    assert spread > reach, "looking back finds something"


@VIEWS
def test_every_feature_takes_several_values(view: FeatureView) -> None:
    given = made(view)
    found = compute(view, first_per_id(given.events), lookups=given.references)
    for name in view.feature_names:
        assert len(set(found.column(name).to_pylist())) > 2, name


def test_most_of_what_is_looked_up_is_there() -> None:
    given = made(MERCHANT_ACTIVITY)
    names = ("tenant", "merchant_id")
    asked = {*zip(*(given.events.column(name).to_pylist() for name in names), strict=True)}
    there = {*zip(*(given.references["merchant"].column(name).to_pylist() for name in names), strict=True)}
    assert there < asked
    assert len(there) > len(asked) / 2
