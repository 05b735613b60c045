"""A view that was applied keeps its meaning: another one under the same version is refused."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from core.errors import DeclarationError
from core.ids import new_id
from core.settings import settings
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.feature_rows import features_topic, late_topic
from features.identity import changed_meaning
from pipelines.applied_views import applied_forms, record_applied
from pipelines.changes import Action, apply, compare
from pipelines.plan import FeaturesPlan
from pipelines.tables import create_tables
from schemas.catalog.user_events import USER_EVENTS
from stack.local import Stack

KEY = (REGIONAL_DEMAND.name, REGIONAL_DEMAND.version)


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def plan_of(domain: str, **changes: Any) -> FeaturesPlan:
    view = replace(REGIONAL_DEMAND, name=f"{domain}_demand", **changes)
    given: Any = {"partitions": 4, "retention": timedelta(days=1)}
    return FeaturesPlan(
        pipeline=domain,
        version=1,
        source=USER_EVENTS,
        view=view,
        rows=features_topic(domain, view, **given),
        late=late_topic(domain, view, **given),
    )


@pytest.mark.services
def test_nothing_was_applied_before_the_tables_are_there(connection: psycopg.Connection[Any]) -> None:
    assert applied_forms(connection) == {}


@pytest.mark.services
def test_what_is_remembered_is_the_first_meaning(connection: psycopg.Connection[Any]) -> None:
    create_tables(connection)
    record_applied(connection, [REGIONAL_DEMAND])
    other = replace(REGIONAL_DEMAND, features=REGIONAL_DEMAND.features[:3])
    record_applied(connection, [other])
    assert changed_meaning(applied_forms(connection)[KEY], REGIONAL_DEMAND) == ()
    assert changed_meaning(applied_forms(connection)[KEY], other)[-1].startswith("rule: an applied version")


@pytest.mark.services
def test_apply_refuses_another_meaning_and_takes_a_new_version(stack: Stack) -> None:
    domain = f"t{new_id()[-8:]}".lower()
    first = plan_of(domain)
    assert [c.action for c in compare([first], settings()) if c.kind == "view"] == [Action.CREATE]
    apply([first], settings())
    assert [c.action for c in compare([first], settings()) if c.kind == "view"] == [Action.KEEP]

    slower = plan_of(domain, disorder=timedelta(seconds=5))
    assert [c.action for c in compare([slower], settings()) if c.kind == "view"] == [Action.KEEP]

    fewer = replace(first, view=replace(first.view, features=first.view.features[:7]))
    (refused,) = [c for c in compare([fewer], settings()) if c.kind == "view"]
    assert refused.action is Action.REFUSE
    assert refused.detail[0] == "- feature seasonality_week"
    with pytest.raises(DeclarationError, match="cannot be applied"):
        apply([fewer], settings())

    newer = plan_of(domain, version=2, features=REGIONAL_DEMAND.features[:7])
    assert [c.action for c in apply([newer], settings()) if c.kind == "view"] == [Action.CREATE]
