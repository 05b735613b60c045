"""The routes of the models over a real gateway, controller and worker."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from cli.models.serving_commands import register
from core.errors import Conflict, InvalidInput, UnknownName
from schemas.catalog.models import COMMANDS
from stack.local import Stack
from tests.gateway.running import RunningGateway
from tests.jobs.rollout.world import World
from tests.jobs.worker.on_kafka import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
MODELS = "/api/v1/models"


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Versions 1 (active) and 2; 3 is refused at load, 4 fails every health check, 5 and 6 are good."""
    with RunningGateway(stack.settings) as gateway:
        made = World(tmp_path_factory.mktemp("versions"))
        for version in "1256":
            made.version(version)
        made.version("3", refused=True)
        made.version("4", unhealthy=1000)
        made.versions.promote(made.model, "1")
        made.gateway = gateway  # type: ignore[attr-defined]
        with made.running(), made.controller(), made.serving_worker():
            made.wait_routed()
            yield made


@pytest.fixture
def http(world: World) -> Iterator[httpx.Client]:
    with world.gateway.http() as client:  # type: ignore[attr-defined]
        yield client


def named(world: World, version: str) -> str:
    return f"{world.model}:{version}"


def active(world: World, http: httpx.Client) -> Any:
    return http.get(f"{MODELS}/{world.model}").json()["active"]


def loaded(world: World, http: httpx.Client, version: str, state: str = "ready") -> None:
    answer = http.post(MODELS, json={"id": named(world, version)})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"{MODELS}/{named(world, version)}"
    place = answer.headers["location"]
    until(lambda: http.get(place).json()["state"] == state, f"{version} is {state}")


def test_the_whole_life_of_a_version(world: World, http: httpx.Client) -> None:
    (found,) = [m for m in http.get(MODELS).json()["models"] if m["model"] == world.model]
    assert found["active"] == "1"
    assert [version["state"] for version in found["versions"]] == ["active"]

    loaded(world, http, "2")
    one = http.get(f"{MODELS}/{named(world, '2')}").json()
    assert (one["progress"], one["health"], one["instances"]) == (100, 1.0, 1)
    assert http.delete(f"{MODELS}/{named(world, '2')}").status_code == 409  # ready, not deprecated

    safety = http.get(f"{MODELS}/{named(world, '2')}/swap/safety").json()
    assert safety["safe"], safety
    assert len(safety["checks"]) == 5

    answer = http.post(f"{MODELS}/swap", json={"target": named(world, "2")})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["previous"], body["target"]) == (named(world, "1"), named(world, "2"))
    assert body["duration_ms"] > 0
    assert active(world, http) == "2"
    assert http.get(f"{MODELS}/{named(world, '1')}").json()["state"] == "deprecated"
    for version in "12":  # where a rollback goes, and the active one
        refused = http.delete(f"{MODELS}/{named(world, version)}")
        assert (refused.status_code, refused.json()["code"]) == (409, "model_in_use")

    back = http.post(f"{MODELS}/rollback", json={"model": world.model})
    assert back.status_code == 200, back.text
    assert back.json()["target"] == named(world, "1")
    assert active(world, http) == "1"

    for version in "56":
        loaded(world, http, version)
        assert http.post(f"{MODELS}/swap", json={"target": named(world, version)}).status_code == 200
    gone = http.get(f"{MODELS}/{named(world, '2')}")
    assert gone.status_code == 404, gone.text  # two deprecated ones are kept: 5 and 1
    assert http.delete(f"{MODELS}/{named(world, '1')}").status_code == 204
    until(lambda: http.get(f"{MODELS}/{named(world, '1')}").status_code == 404, "1 is unloaded")
    assert http.post(f"{MODELS}/rollback", json={"model": world.model}).status_code == 200


def test_a_swap_that_is_not_safe_is_400_with_every_failed_check(world: World, http: httpx.Client) -> None:
    answer = http.post(f"{MODELS}/swap", json={"target": named(world, "999")})
    assert answer.status_code == 400
    body = answer.json()
    assert body["code"] == "swap_unsafe"
    assert body["failed"] == ["exists_and_ready", "health_score"]
    assert len(body["checks"]) == 5
    now = active(world, http)
    same = http.post(f"{MODELS}/swap", json={"target": named(world, now)}).json()
    assert same["failed"] == ["target_differs"]


def test_versions_that_do_not_pass_are_failed_and_can_be_removed(world: World, http: httpx.Client) -> None:
    before = active(world, http)
    for version, words in (("3", "digest differs"), ("4", "golden outputs differ")):
        loaded(world, http, version, "failed")
        place = f"{MODELS}/{named(world, version)}"
        assert words in http.get(place).json()["reason"]
        swap = http.post(f"{MODELS}/swap", json={"target": named(world, version)})
        assert swap.status_code == 400
        assert "exists_and_ready" in swap.json()["failed"]
        assert http.delete(place).status_code == 204
    assert active(world, http) == before


def test_bodies_that_are_wrong_are_400_and_unknown_names_404(world: World, http: httpx.Client) -> None:
    target = named(world, "1")
    bad: list[Any] = [b"{", b"[]", b"{}", b'{"target": 1}', b'{"target": "a", "target": "b"}', b"\xff"]
    for body in (
        *bad,
        f'{{"target": "{target}", "more": 1}}'.encode(),
        b'{"target": "%s"}' % world.model.encode(),
    ):
        for route in ("swap", "rollback"):
            answer = http.post(
                f"{MODELS}/{route}", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 400, (body, answer.text)
    answer = http.post(f"{MODELS}/swap", json={"target": "nothing:1"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")
    near = http.get(f"{MODELS}/{world.model}x")
    assert near.status_code == 404
    assert world.model in near.json()["mend"]
    assert http.get(f"{MODELS}/{named(world, '77')}").status_code == 404
    assert http.post(MODELS, json={"id": named(world, "77")}).status_code == 404
    stale = http.post(f"{MODELS}/rollback", json={"model": world.model, "expected_revision": 1})
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_revision")


def test_reading_and_changing_are_scopes_of_their_own(world: World) -> None:
    gateway: RunningGateway = world.gateway  # type: ignore[attr-defined]
    key = gateway.key("acme", scopes=["models:read"])
    headers = {"authorization": f"Bearer {key}"}
    assert httpx.get(f"{gateway.url}{MODELS}", headers=headers).status_code == 200
    answer = httpx.post(f"{gateway.url}{MODELS}/rollback", headers=headers, json={"model": world.model})
    assert answer.status_code == 403
    assert httpx.get(f"{gateway.url}{MODELS}").status_code == 401


def test_the_same_from_the_command_line(world: World, http: httpx.Client) -> None:
    before = active(world, http)
    world.version("8")
    group = typer.Typer()
    register(group)

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(group, [*arguments, "--json"])
        if done.exception is not None:
            raise done.exception
        return json.loads(done.stdout.splitlines()[-1])

    swapped = run("swap", named(world, "8"))  # loads it first
    assert (swapped["previous"], swapped["target"], swapped["outcome"]) == (before, "8", "done")
    (row,) = [view for view in run("serving") if view["id"] == named(world, "8")]
    assert (row["state"], row["share"]) == ("active", 1.0)
    with pytest.raises(Conflict, match="revision 1 was expected"):
        run("rollback", world.model, "--expect", "1")
    assert run("rollback", world.model)["target"] == before
    with pytest.raises(UnknownName, match="unknown model"):
        run("swap", "nothing:1")
    canary = ("deploy", named(world, "8"), "--strategy", "canary")
    with pytest.raises(InvalidInput, match="at least one step"):
        run(*canary)
    assert run(*canary, "--step", "0.1:600")["outcome"] == "accepted"
    until(lambda: len(world.fleet().routing.routes) == 2, "the canary is routed")  # type: ignore[union-attr]
    assert run("rollback", world.model)["target"] == before


def test_a_command_that_cannot_be_read_is_dead_lettered_and_the_next_one_is_done(world: World) -> None:
    letters = world.count(COMMANDS.dlq)
    world.producer.produce(COMMANDS.name, value=b"hello", key=b"x")
    assert world.producer.flush(20) == 0
    assert world.reply(world.ask("load", "6"), final=False).outcome == "accepted"
    assert world.count(COMMANDS.dlq) == letters + 1
