"""The fraud pipeline as a new user has it, on a stack of these tests' own: real services, a trained model,
direct serving, the small language model, embeddings. It is deployed once; the tests read.
"""

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from cli.deploy_commands import apply_all
from cli.features.offline import output_of
from cli.jobs import job_specs
from core.errors import MillstreamError
from core.settings import Settings, settings
from features.on_feast.repository import apply as apply_feast
from features.on_feast.repository import feature_store, repository
from gateway.keys import create_key
from jobs.sources import generated
from jobs.training.fraud import train_fraud
from models.load import LoadedModel, load
from models.registry import open_registry
from pipelines.load import load_plans, load_scoring, load_services
from pipelines.offline import offline_path
from pipelines.plan import ScoringPlan
from stack.catalog import NAMES
from stack.local import Stack
from tests.integration.conftest import SMALL
from tests.integration.test_requests import payment
from tests.stack_fixture import EXTERNAL_ADDRESSES, environment, services_required, stack_env

TENANT, OTHER = "acme", "globex"
READY_S = 240.0
DECIDED_S = 120.0
EVENTS = 24


@dataclass(frozen=True)
class Site:
    """What runs. `events` were published by `TENANT`, each with its id, and all of them are decided."""

    settings: Settings
    plan: ScoringPlan
    model: LoadedModel
    key: str
    events: list[dict[str, Any]]

    @property
    def url(self) -> str:
        return self.settings.gateway.address

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with environment(stack_env(tmp_path_factory.mktemp("clients")), without=EXTERNAL_ADDRESSES):
        given, plan = settings(), load_scoring("fraud")
        own = Stack(given)
        try:
            own.up({*NAMES, "llm"}, timeout_s=READY_S)
        except MillstreamError as error:
            if services_required():
                pytest.fail(f"the stack does not start, and MILLSTREAM_REQUIRE_SERVICES=1:\n{error}")
            warnings.warn(f"NOT TESTED: the stack does not start:\n{error}", stacklevel=1)
            pytest.skip(f"NOT TESTED: the stack does not start: {error}")
        try:
            yield _deployed(own, given, plan)
        finally:
            own.down()


def _deployed(own: Stack, given: Settings, plan: ScoringPlan) -> Site:
    store = open_registry(given)
    train_fraud(generated.generate(40_000), source=generated.SOURCE, configuration=SMALL, store=store)
    apply_all([plan], given, jobs=True, llm=True, direct=True, embeddings=True)
    specs = job_specs([plan], given, llm=True, direct=True, embeddings=True)
    own.wait_ready([spec.name for spec in specs], READY_S)
    key = create_key(given, TENANT, name="clients")
    events = [payment(row) for row in range(EVENTS)]
    _feast(given)
    site = Site(given, plan, load(store.resolve("fraud")), key, events)
    with httpx.Client(base_url=site.url, headers=site.headers, timeout=30) as client:
        published = client.post("/api/v1/pipelines/fraud/events", json=events)
        assert published.status_code in (202, 207), published.text
        deadline = time.monotonic() + DECIDED_S
        for event in events:
            while _status(client, event["id"]) == "provisional":
                assert time.monotonic() < deadline, f"{event['id']} is not decided"
                time.sleep(0.1)
    return site


def _status(client: httpx.Client, id: str) -> str:
    found: str = client.get(f"/api/v1/transactions/{id}").raise_for_status().json()["status"]
    return found


def _feast(given: Settings) -> None:
    """What `millstream features feast` does."""
    plans = {one.view.name: one for one in load_plans().values()}
    history = {name: offline_path(given.root, output_of(one).name) for name, one in plans.items()}
    store = feature_store(given)
    apply_feast(store, [one.view for one in plans.values()], load_services(), history=history)
    repository(given)
