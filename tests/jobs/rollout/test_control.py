"""The controller's decisions: each rule by itself, then random histories against what must always hold."""

import random
from datetime import timedelta

import msgspec
import pytest

from jobs.rollout.control import commanded
from jobs.rollout.decision import NOTHING
from pipelines.serving.fleet import Fleet
from schemas.catalog.models import Routing, Step
from tests.jobs.rollout.simulated import RULES, World


def served(*, versions: tuple[str, ...] = ("1",)) -> World:
    """A world in which these were champions one after the other."""
    world = World()
    for version in versions:
        world.champion(version)
        world.settle()
    return world


def live(routing: Routing) -> dict[str, float]:
    return {route.version: route.share for route in routing.routes if route.mode == "live"}


def test_the_first_champion_is_served_and_a_later_one_takes_over_after_its_check() -> None:
    world = World()
    world.champion("1")
    assert live(world.routing) == {"1": 1.0}
    world.settle()
    world.champion("2")
    assert live(world.routing) == {"1": 1.0}
    assert world.routing.standby == ["2"]
    world.settle()
    assert live(world.routing) == {"2": 1.0}
    assert (world.routing.previous, world.routing.deprecated) == ("1", ["1"])
    assert world.routing.operation is None
    assert world.champion("2") is NOTHING


def test_a_refused_champion_leaves_the_one_in_service_is_told_of_once_and_not_tried_again() -> None:
    world = served()
    world.refused = {"2"}
    world.champion("2")
    world.settle()
    assert live(world.routing) == {"1": 1.0}
    assert world.routing.failed == ["2"]
    assert [alert.kind for alert in world.alerts] == ["model_compatibility"]
    assert world.champion("2") is NOTHING
    world.refused = set()
    world.command("load", "2")
    world.settle()
    assert world.fleet.state_of("2") == "ready"


def test_without_a_worker_a_champion_is_routed_for_the_workers_to_check() -> None:
    world = World(workers=[])
    world.champion("1")
    world.champion("2")
    assert live(world.routing) == {"2": 1.0}
    assert world.routing.previous == "1"


def test_a_swap_is_done_when_every_worker_serves_the_target() -> None:
    world = served()
    world.command("load", "2")
    world.settle()
    swap = world.command("swap", "2", expected_revision=world.routing.revision)
    assert world.answers(swap) == []
    world.follow()
    world.tick()
    assert live(world.routing) == {"2": 1.0}
    assert world.answers(swap) == []
    world.workers.append("c")  # one that has just started counts too
    world.settle()
    assert world.answers(swap) == ["done"]
    (answer,) = [reply for reply in world.replies if reply.id == swap.id]
    assert (answer.previous, answer.target) == ("1", "2")
    assert answer.duration_ms == pytest.approx(200, abs=150)


def test_a_swap_that_is_not_safe_is_refused_with_every_failed_check() -> None:
    world = served()
    swap = world.command("swap", "7")
    (answer,) = [reply for reply in world.replies if reply.id == swap.id]
    assert answer.outcome == "refused"
    assert [(check.name, check.passed) for check in answer.checks] == [
        ("exists_and_ready", False),
        ("no_concurrent_operation", True),
        ("system_health", True),
        ("health_score", False),
        ("target_differs", True),
    ]
    same = world.command("swap", "1")
    failed = [
        check.name
        for reply in world.replies
        if reply.id == same.id
        for check in reply.checks
        if not check.passed
    ]
    assert failed == ["target_differs"]


def test_a_stale_expectation_is_a_conflict_and_a_repeated_command_changes_nothing() -> None:
    world = served(versions=("1", "2"))
    stale = world.command("rollback", expected_revision=world.routing.revision - 1)
    assert world.answers(stale) == ["conflict"]
    again = world.command("rollback", expected_revision=world.routing.revision)
    revision = world.routing.revision
    assert commanded(world.living(), again, world.clock.now(), RULES) is NOTHING
    assert world.routing.revision == revision
    world.settle()
    assert live(world.routing) == {"1": 1.0}
    repeated = commanded(world.living(), again, world.clock.now(), RULES)
    assert repeated.routing is None
    assert [reply.outcome for reply in repeated.replies] == ["done"]


def test_a_failed_health_check_ends_the_swap_with_the_old_version_in_service() -> None:
    world = served()
    world.command("load", "2")
    world.settle()
    world.sick = {"2"}
    swap = world.command("swap", "2")
    assert world.answers(swap) == []  # at the time of the command it was healthy as far as anybody knew
    world.settle()
    assert world.answers(swap) == ["failed"]
    assert live(world.routing) == {"1": 1.0}
    assert world.routing.failed == ["2"]


def test_a_version_that_fails_its_first_batches_is_undone() -> None:
    world = served(versions=("1", "2"))
    world.weak = {"3"}
    deploy = world.command("deploy", "3")
    world.settle()
    assert world.answers(deploy) == ["accepted", "failed"]
    assert live(world.routing) == {"2": 1.0}
    assert world.routing.previous == "1"
    assert "3" in world.routing.failed


def test_a_health_check_that_nobody_answers_ends_after_its_patience() -> None:
    world = served()
    deploy = world.command("deploy", "2")
    for _ in range(70):
        for worker in world.workers:  # alive, but stuck in loading
            state = next(one for one in world._states(worker) if one.version == "2")
            stuck = msgspec.structs.replace(state, state="loading", checked=None, health=0.0)
            world.fleet = world.fleet.told(stuck)
        world.tick(1.0)
    assert world.answers(deploy) == ["accepted", "failed"]
    assert world.routing.operation is None
    assert world.routing.failed == []


def test_of_too_many_loaded_versions_the_oldest_is_let_go_of() -> None:
    world = served()
    for version in "234567":
        assert world.answers(world.command("load", version)) == ["accepted"]
        world.settle()
    assert world.routing.standby == ["4", "5", "6", "7"]


def test_one_worker_that_has_not_checked_yet_is_waited_for() -> None:
    world = served()
    world.command("deploy", "2")
    for state in world._states("a"):
        world.fleet = world.fleet.told(state)
    assert world.tick().routing is None
    assert live(world.routing) == {"1": 1.0}
    world.settle()
    assert live(world.routing) == {"2": 1.0}


def test_an_unhealthy_backup_takes_nothing_over() -> None:
    world = served(versions=("1", "2"))
    world.sick = {"1", "2"}
    world.settle()
    assert live(world.routing) == {"2": 1.0}


def test_a_canary_advances_by_the_clock_and_ends_with_all() -> None:
    world = served()
    steps = [Step(0.1, 60.0), Step(0.5, 30.0)]
    deploy = world.command("deploy", "2", strategy="canary", steps=steps, experiment="e1")
    world.settle()
    assert live(world.routing) == {"1": 0.9, "2": 0.1}
    assert world.routing.experiment == "e1"
    salt = world.routing.salt
    for _ in range(58):
        world.follow()
        assert world.tick(1.0).routing is None
    # what is on Kafka is all there is: another process goes on from it
    world.fleet = Fleet(msgspec.json.decode(msgspec.json.encode(world.routing), type=Routing))
    world.follow()
    world.tick(2.5)
    assert live(world.routing) == {"1": 0.5, "2": 0.5}
    assert world.routing.salt == salt
    world.follow()
    world.tick(31.0)
    assert live(world.routing) == {"2": 1.0}
    world.settle()
    assert world.answers(deploy) == ["accepted", "done"]
    assert world.routing.previous == "1"


@pytest.mark.parametrize("how", ["rollback", "weak"])
def test_a_canary_is_taken_back_by_hand_or_when_it_fails(how: str) -> None:
    world = served()
    deploy = world.command("deploy", "2", strategy="canary", steps=[Step(0.1, 60.0)])
    world.settle()
    if how == "rollback":
        back = world.command("rollback")
        assert world.answers(back) == ["done"]
    else:
        world.weak = {"2"}
        world.settle()
    assert live(world.routing) == {"1": 1.0}
    assert world.answers(deploy) == ["accepted", "failed"]
    assert world.routing.operation is None
    assert ("2" in world.routing.failed) == (how == "weak")
    assert "2" in world.routing.deprecated or how == "weak"


def test_a_shadow_serves_nobody_and_ends_when_it_breaks() -> None:
    world = served()
    deploy = world.command("deploy", "2", strategy="shadow")
    world.settle()
    assert world.answers(deploy) == ["accepted", "done"]
    assert live(world.routing) == {"1": 1.0}
    assert [(r.version, r.mode) for r in world.routing.routes] == [("1", "live"), ("2", "shadow")]
    world.refused = {"2"}
    world.settle()
    assert [r.version for r in world.routing.routes] == ["1"]
    assert world.routing.failed == ["2"]


@pytest.mark.parametrize(
    "steps", [[], [Step(0.0, 1)], [Step(1.0, 1)], [Step(0.5, 1), Step(0.2, 1)], [Step(0.5, -1)]]
)
def test_a_canary_without_sense_is_refused(steps: list[Step]) -> None:
    world = served()
    deploy = world.command("deploy", "2", strategy="canary", steps=steps)
    assert world.answers(deploy) == ["refused"]


def test_an_unhealthy_version_fails_over_to_the_previous_one_once() -> None:
    world = served(versions=("1", "2", "3"))
    world.sick = {"3"}
    world.settle()
    assert live(world.routing) == {"2": 1.0}
    assert world.routing.failed == ["3"]
    assert world.routing.previous == "1"
    assert [(alert.kind, alert.severity) for alert in world.alerts] == [("model_failover", "critical")]
    assert world.champion("3") is NOTHING  # the registry still says so; it was acted on


def test_one_of_many_workers_that_cannot_serve_is_no_reason_to_fail_over() -> None:
    world = served(versions=("1", "2"))
    world.workers = list("abcdefgh")
    world.follow()
    state = next(one for one in world._states("a") if one.version == "2")
    world.fleet = world.fleet.told(msgspec.structs.replace(state, health=0.0))
    assert world.tick().routing is None


def test_errors_over_the_threshold_fail_over() -> None:
    world = served(versions=("1", "2"))
    for errors, expected in ((3, "2"), (8, "1")):
        state = next(one for one in world._states("a") if one.version == "2")
        told = msgspec.structs.replace(state, records=100 - errors, errors=errors, at=world.clock.now())
        world.fleet = world.fleet.told(told)
        world.tick()
        assert list(live(world.routing)) == [expected]


def test_what_is_removed_is_deprecated_or_failed_never_active_or_the_way_back() -> None:
    world = served(versions=("1", "2", "3"))
    world.command("load", "4")
    world.settle()
    outcomes = {version: world.answers(world.command("remove", version)) for version in "12349"}
    assert outcomes == {
        "1": ["done"], "2": ["refused"], "3": ["refused"], "4": ["refused"], "9": ["unknown"]
    }  # fmt: skip
    world.settle()
    assert world.fleet.state_of("1") is None


def test_only_so_many_deprecated_versions_are_kept() -> None:
    world = served(versions=("1", "2", "3", "4", "5"))
    assert world.routing.deprecated == ["4", "3"]
    assert world.fleet.versions == ["3", "4", "5"]


@pytest.mark.parametrize("seed", range(150))
def test_whatever_happens_one_healthy_version_serves_and_every_command_is_answered(seed: int) -> None:
    chance = random.Random(seed)
    versions = [str(number) for number in range(1, 8)]
    world = World(workers=[f"w{n}" for n in range(chance.randint(1, 3))])
    world.champion("1")
    world.settle()
    world.refused = set(chance.sample(versions[1:], 2))
    world.weak = set(chance.sample(versions[1:], 1))
    commands = []
    for _ in range(40):
        act = chance.choice(
            ["deploy", "swap", "rollback", "load", "remove", "champion", "tick", "settle", "die"]
        )
        version = chance.choice(versions)
        if act == "champion":
            world.champion(version)
        elif act == "tick":
            world.follow()
            world.tick(chance.choice([0.1, 5.0]))
        elif act == "settle":
            world.settle()
        elif act == "die":  # the controller; the next one knows what is on Kafka
            routing = msgspec.json.decode(msgspec.json.encode(world.routing), type=Routing)
            world.fleet = Fleet(routing, world.fleet.states)
        elif act == "rollback":
            commands.append(world.command("rollback"))
        elif act == "deploy":
            strategy = chance.choice(["all", "shadow", "canary"])
            commands.append(
                world.command("deploy", version, strategy=strategy, steps=[Step(0.2, 1.0), Step(0.5, 1.0)])
            )
        else:
            commands.append(world.command(act, version))
        holds(world)
    for _ in range(4):
        world.settle(2.0)
    holds(world)
    assert world.routing.operation is None
    bad = world.refused | world.weak
    assert not bad & live(world.routing).keys(), world.routing
    for command in commands:
        outcomes = world.answers(command)
        final = [outcome for outcome in outcomes if outcome != "accepted"]
        assert len(final) == (0 if outcomes == ["accepted"] and command.kind == "load" else 1), (
            command,
            outcomes,
        )
    revisions = [routing.revision for routing in world.history]
    assert revisions == sorted(set(revisions))


def holds(world: World) -> None:
    """What is true after every single decision."""
    routing = world.routing
    shares = live(routing)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert 1 <= len(shares) <= 2
    arms = [route.arm for route in routing.routes if route.mode == "live"]
    assert arms.count("champion") == 1
    versions = [route.version for route in routing.routes]
    assert len(versions) == len(set(versions))
    assert len(routing.deprecated) <= RULES.kept
    assert not set(routing.standby) & {*versions, *routing.deprecated}
    assert not set(routing.deprecated) & set(versions)
    assert not set(routing.failed) & {*routing.standby, *routing.deprecated}
    assert routing.previous not in versions or routing.operation is not None
    assert timedelta(0) <= world.clock.now() - routing.decided_at
    if routing.operation is None:
        assert shares == {next(iter(shares)): 1.0}
