"""Views as Feast objects, and what the registry's text says of them, without any server."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import feast
import pytest
from hypothesis import given, settings

from core.errors import DeclarationError, InvalidInput, UnknownName
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.on_feast.compile import compile_feast, join_keys
from features.on_feast.forms import FORM, PackedForm, RollingForm, form_text, parse_form
from features.online.layout import layout_of
from features.online.memory import MemoryRollingStore
from features.services import service
from features.view import Count, Feature, FeatureView, Last, Tumbling
from tests.features.rides import SECOND, SHAPES, Ride, view
from tests.features.rolling_behaviour import batch
from tests.features.training_rows import ACTIVITY, DEMAND
from tests.features.views import BEGIN, VIEW, Swipe, swipes

WINDOWED = [view(shape) for shape in SHAPES if not isinstance(shape, type(VIEW.window))]
FOLDER = Path("rows")


def compiled(*views: FeatureView) -> tuple[feast.FeatureView, ...]:
    return compile_feast(views, history=dict.fromkeys((one.name for one in views), FOLDER)).views


@pytest.mark.parametrize("one", [*WINDOWED, DEMAND, REGIONAL_DEMAND], ids=lambda one: str(one.window))
def test_the_text_of_a_windowed_view_gives_its_layout(one: FeatureView) -> None:
    form = parse_form(form_text(one))
    assert isinstance(form, PackedForm)
    assert form.layout == layout_of(one)
    assert form.entity == tuple(name.replace(".", "_") for name in one.entity_fields)
    kinds = [type(field.empty) for field in form.layout.fields]
    assert kinds == [type(field.empty) for field in layout_of(one).fields]  # 0 and 0.0 are equal


@pytest.mark.parametrize("one", [VIEW, CARD_ACTIVITY], ids=lambda one: one.name)
def test_the_text_of_a_rolling_view_gives_a_view_of_the_same_meaning(one: FeatureView) -> None:
    form = parse_form(form_text(one))
    assert isinstance(form, RollingForm)
    assert form.view.canonical() == one.canonical()
    assert (form.view.digest, form.view.ttl, form.view.columns) == (one.digest, one.ttl, one.columns)


@given(swipes())
@settings(max_examples=50, deadline=None)
def test_a_view_from_the_text_reads_rows_as_the_declared_one_does(given: list[Swipe]) -> None:
    form = parse_form(form_text(VIEW))
    assert isinstance(form, RollingForm)
    stores = MemoryRollingStore(form.view), MemoryRollingStore(VIEW)
    for store in stores:
        store.write(batch(given))
    for seconds in (0, 10, 75, 200):
        at = BEGIN + timedelta(seconds=seconds)
        found, wanted = (store.read("t", "a", at) for store in stores)
        assert (found.values, found.statuses) == (wanted.values, wanted.statuses)


def test_a_text_that_was_changed_is_refused() -> None:
    text = json.loads(form_text(VIEW))
    text["meaning"]["features"][0]["over_s"] = 11
    form = parse_form(json.dumps(text))
    assert isinstance(form, RollingForm)
    with pytest.raises(DeclarationError, match="digest"):
        _ = form.view
    with pytest.raises(InvalidInput, match="unreadable"):
        parse_form("{")


def test_a_windowed_view_has_typed_columns_its_ttl_and_a_push_source() -> None:
    (made,) = compiled(DEMAND)
    assert made.ttl == DEMAND.ttl
    assert [(one.name, str(one.dtype)) for one in made.features] == [
        ("rides", "Int64"), ("fares", "Int64"), ("tips", "Float64"), ("last_kind", "String"),
        ("was_shared", "Bool"), ("doubled", "Int64"),
    ]  # fmt: skip
    assert [one.name for one in made.entity_columns] == ["tenant", "city", "zone"]
    tips = made.features[2]
    assert tips.tags == {"unit": "cents", "empty": "-1", "ttl_ms": "15000"}
    assert json.loads(tips.description) == {"aggregate": "Mean", "column": "tip"}
    assert json.loads(made.features[5].description) == {"derived": ["*", ["feature", "rides"], 2]}
    assert made.tags["millstream.digest"] == DEMAND.digest
    assert made.tags["millstream.version"] == "1"
    assert made.stream_source is not None
    assert made.stream_source.name == "demand_push"
    assert made.batch_source is not None
    assert made.batch_source.timestamp_field == "window_end"
    assert made.online


def test_a_rolling_view_is_not_materialized_or_pushed() -> None:
    (made,) = compiled(VIEW)
    assert not made.online
    assert made.stream_source is None
    assert made.batch_source is not None
    assert made.batch_source.timestamp_field == "at"


def test_an_entity_of_a_lookup_has_a_name_without_a_dot() -> None:
    assert join_keys(view(Tumbling(10 * SECOND), entity=("zone", "driver_of.level"))) == (
        "tenant", "zone", "driver_of_level",
    )  # fmt: skip


def test_what_is_compiled_survives_the_registry() -> None:
    """Everything is data: Feast's protobuf messages hold it."""
    for made in compiled(DEMAND, VIEW, REGIONAL_DEMAND):
        again = feast.FeatureView.from_proto(made.to_proto())
        assert again == made
        assert again.tags[FORM] == made.tags[FORM]


def test_a_service_names_the_features_of_several_views() -> None:
    made = compile_feast(
        [DEMAND, VIEW],
        [service("ride", (DEMAND, ["tips", "rides"]), VIEW)],
        history={"demand": FOLDER, "swipes": FOLDER},
    )
    (one,) = made.services
    assert [projection.name for projection in one.feature_view_projections] == ["demand", "swipes"]
    named = [[field.name for field in p.features] for p in one.feature_view_projections]
    assert sorted(named[0]) == ["rides", "tips"]
    assert sorted(named[1]) == sorted(VIEW.feature_names)
    assert [entity.name for entity in made.entities] == ["tenant", "city", "zone", "card"]


def lookups_name(name: str) -> FeatureView:
    return FeatureView(
        name="levels",
        version=1,
        source=Ride,
        entity="driver_of.level",
        disorder=SECOND,
        features=(Feature(name, Count(), unit="rides"), Feature("kind_last", Last("kind"), unit="kind")),
        ttl=timedelta(minutes=1),
        window=Tumbling(SECOND),
        lookups=view(Tumbling(SECOND)).lookups,
    )


def test_what_feast_cannot_hold_is_refused_with_the_reason() -> None:
    with pytest.raises(DeclarationError, match="each is derived from other features"):
        compiled(ACTIVITY)
    with pytest.raises(DeclarationError, match="driver_of_level would be a column twice"):
        compiled(lookups_name("driver_of_level"))
    assert compiled(lookups_name("other"))
    with pytest.raises(DeclarationError, match="there twice"):
        compiled(DEMAND, replace(DEMAND, version=2))
    with pytest.raises(UnknownName) as problem:
        compile_feast([DEMAND], history={"demant": FOLDER})
    assert problem.value.nearest == "demant"
    with pytest.raises(UnknownName, match="demand v2"):
        compile_feast([DEMAND], [service("ride", replace(DEMAND, version=2))], history={"demand": FOLDER})
