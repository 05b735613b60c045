"""What answers a unit, as a gateway sees it: the workers' own rule, or what they tell."""

import random
from datetime import UTC, datetime

import pytest

from core.clock import ManualClock
from core.errors import Unavailable
from gateway.asking.cache_versions import LOOK_S, ServingVersions
from jobs.worker.held import LiveRoute, Meter, Service
from pipelines.serving.assignment import route_of
from pipelines.serving.fleet import Fleet
from schemas.catalog.models import ModelState, Route, Routing
from tests.jobs.worker.payments import Formula

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def routing(*routes: Route, salt: str = "s", revision: int = 1) -> Routing:
    return Routing(
        tenant="system", id="r", model="m", revision=revision, routes=list(routes), salt=salt, decided_at=NOW
    )


def state(instance: str, version: str, now: str = "active") -> ModelState:
    return ModelState(
        tenant="system", id=f"{instance}:{version}", model="m", version=version, instance=instance,
        pipeline="p", state=now, at=NOW,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_gateway_assigns_units_as_the_workers_do(seed: int) -> None:
    dice = random.Random(seed)
    cuts = sorted(dice.random() for _ in range(dice.randrange(4)))
    shares = [high - low for low, high in zip([0.0, *cuts], [*cuts, 1.0], strict=True)]
    live = [Route(str(number), share, arm=f"arm-{number}") for number, share in enumerate(shares)]
    wanted = routing(*live, Route("9", 1.0, "shadow"), salt=f"salt-{seed}")
    service = Service(
        tuple(LiveRoute(one.version, Formula(one.version), Meter(), one.share, one.arm) for one in live),
        salt=wanted.salt,
    )
    for number in range(300):
        found, theirs = route_of(wanted, "acme", f"u{number}"), service.route_of("acme", f"u{number}")
        assert found is not None
        assert (found.version, found.arm) == (theirs.version, theirs.arm)


def test_without_a_routing_it_is_what_all_workers_tell_to_be_in_service() -> None:
    def seen(*states: ModelState) -> Route | None:
        fleet = Fleet()
        for one in states:
            fleet = fleet.told(one)
        return ServingVersions(lambda: {"m": fleet}, ManualClock()).of("m", "acme", "u")

    assert seen() is None
    assert seen(state("a", "1"), state("b", "1"), state("a", "2", "ready")) == Route("1")
    assert seen(state("a", "1"), state("b", "2")) is None
    assert seen(state("a", "1", "loading")) is None


def test_a_change_is_seen_soon_and_what_was_known_outlasts_an_outage() -> None:
    clock, fleets, away = ManualClock(), {"m": Fleet(routing(Route("1")))}, False

    def read() -> dict[str, Fleet]:
        if away:
            raise Unavailable("not read")
        return fleets

    versions = ServingVersions(read, clock)
    assert versions.of("m", "acme", "u") == Route("1")
    assert versions.of("other", "acme", "u") is None
    fleets = {"m": Fleet(routing(Route("2"), revision=2))}
    away = True
    clock.elapsed += LOOK_S
    assert versions.of("m", "acme", "u") == Route("1")
    away = False
    clock.elapsed += LOOK_S
    assert versions.of("m", "acme", "u") == Route("2")
    away = True
    assert ServingVersions(read, clock).of("m", "acme", "u") is None
