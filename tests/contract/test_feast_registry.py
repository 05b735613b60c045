"""The registry in PostgreSQL, shared by several stores, and in a file."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from features.catalog.regional_demand import REGIONAL_DEMAND
from features.on_feast.forms import FORM, form_text
from features.on_feast.repository import apply, feature_store
from features.services import service
from stack.local import Stack
from tests.contract.feast_world import ago, demand, feast_world, packed
from tests.features.redis_server import own_redis
from tests.features.training_rows import DEMAND

pytestmark = pytest.mark.services


@pytest.fixture
def registry(stack: Stack) -> Iterator[str]:
    """The address of a fresh database."""
    address = stack.settings.postgres.address
    name = f"feast_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(address, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    known = conninfo_to_dict(address)
    yield f"postgresql://{known['user']}@{known['host']}:{known['port']}/{name}"
    with psycopg.connect(address, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_stores_with_one_postgresql_registry_share_the_definitions(registry: str, tmp_path: Path) -> None:
    with own_redis() as server, feast_world(server, tmp_path / "one", registry=registry) as world:
        world.write([packed(demand(ago(0)))])
        other = feature_store(
            server.settings.model_copy(update={"home": tmp_path / "other"}), registry=registry
        )
        assert {view.name for view in other.list_feature_views()} == {"demand", "swipes", "card_activity"}
        rows = [{"tenant": "t", "city": "a", "zone": "z"}]
        assert other.get_online_features(["demand:rides"], rows).to_dict()["rides"] == [3]


def test_applying_again_changes_what_changed_and_keeps_the_rest(tmp_path: Path) -> None:
    with own_redis() as server:
        store = feature_store(server.settings.model_copy(update={"home": tmp_path}))
        apply(store, [DEMAND], [service("ride", DEMAND)], history={"demand": tmp_path})
        apply(store, [REGIONAL_DEMAND], history={"regional_demand": tmp_path})
        apply(store, [DEMAND], [service("ride", (DEMAND, ["tips"]))], history={"demand": tmp_path})
        store.refresh_registry()
        assert {view.name for view in store.list_feature_views()} == {"demand", "regional_demand"}
        assert store.get_feature_view("demand").tags[FORM] == form_text(DEMAND)
        (projection,) = store.get_feature_service("ride").feature_view_projections
        assert [field.name for field in projection.features] == ["tips"]
