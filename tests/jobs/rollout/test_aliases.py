"""The registry's aliases and the routing come to agree, whoever moved first and whoever died in between."""

import random
from dataclasses import dataclass, field

import msgspec
import pytest

from jobs.rollout.aliases import AliasMove, alias_move
from jobs.rollout.decision import NOTHING
from pipelines.serving.fleet import Fleet
from schemas.catalog.models import Routing
from tests.jobs.rollout.simulated import World


@dataclass
class Registered:
    """A world with a registry beside it: what its aliases are, what the controller has seen of them, and the
    one move that is on its way."""

    world: World = field(default_factory=World)
    aliases: dict[str, str] = field(default_factory=lambda: {"champion": "1"})
    seen: dict[str, str] = field(default_factory=dict)
    wanted: AliasMove | None = None
    moving: AliasMove | None = None

    def look(self) -> None:
        self.seen = dict(self.aliases)

    def turn(self) -> None:
        """What the controller's loop does, once."""
        self.wanted = None
        if self.moving is None and "champion" in self.seen:
            self.world.champion(self.seen["champion"])
        self.world.tick()
        self.wanted = alias_move(self.world.routing, self.seen)

    def begin(self) -> None:
        if self.moving is None:
            self.moving = self.wanted

    def end(self, *, lost: bool = False) -> None:
        """The move arrives at the registry, as a registry makes it; then it is looked at."""
        move, self.moving = self.moving, None
        if move is not None and not lost:
            self._write(move)
        self.look()

    def _write(self, move: AliasMove) -> None:
        now = self.aliases.get("champion")
        if now not in (None, move.champion, *move.instead_of):
            return
        self.aliases.pop("previous", None)
        if move.previous is not None:
            self.aliases["previous"] = move.previous
        self.aliases["champion"] = move.champion

    def person(self, version: str) -> None:
        if self.aliases.get("champion") not in (None, version):
            self.aliases["previous"] = self.aliases["champion"]
        self.aliases["champion"] = version

    def die(self, *, lost: bool) -> None:
        """kill -9: the routing is all there is; what was on its way arrives, or not."""
        self.end(lost=lost)
        routing = msgspec.json.decode(msgspec.json.encode(self.world.routing), type=Routing)
        self.world.fleet = Fleet(routing, self.world.fleet.states)
        self.wanted = None

    def rest(self) -> None:
        """Everything there is to do, until nothing is."""
        for _ in range(60):
            self.look()
            before = len(self.world.history)
            self.world.follow()
            self.turn()
            self.begin()
            idle = self.moving is None
            self.end()
            if idle and before == len(self.world.history):
                return
        raise AssertionError([r.reason for r in self.world.history[-8:]])

    def agree(self) -> None:
        routing = self.world.routing
        (active,) = [route.version for route in routing.routes if route.mode == "live"]
        assert self.aliases["champion"] == active == routing.champion, (self.aliases, routing)
        assert routing.promoted == []
        if routing.previous is not None:
            assert self.aliases["previous"] == routing.previous
        else:
            assert self.aliases.get("previous") not in routing.failed


def registered() -> Registered:
    made = Registered()
    made.look()
    made.turn()
    made.rest()
    return made


def test_a_swap_a_rollback_and_a_failover_move_both_aliases() -> None:
    made = registered()
    world = made.world
    world.command("load", "2")
    world.settle()
    world.command("swap", "2")
    made.rest()
    assert made.aliases == {"champion": "2", "previous": "1"}
    world.command("rollback")
    made.rest()
    assert made.aliases == {"champion": "1", "previous": "2"}
    world.command("deploy", "3")
    made.rest()
    assert made.aliases == {"champion": "3", "previous": "1"}
    world.sick = {"3"}
    made.rest()
    assert made.aliases == {"champion": "1", "previous": "2"}, "the one that failed is nobody's way back"
    made.agree()


def test_a_wish_that_cannot_be_served_is_taken_back_and_may_be_made_again() -> None:
    made = registered()
    made.world.refused = {"2"}
    made.person("2")
    made.rest()
    made.agree()
    assert made.aliases["champion"] == "1"
    made.world.refused = set()
    made.person("2")
    made.rest()
    assert made.aliases == {"champion": "2", "previous": "1"}


def test_a_move_under_way_is_no_wish_when_it_arrives() -> None:
    """A swap to 2 is written slowly; rolled back meanwhile, its alias arrives when 1 serves again."""
    made = registered()
    made.world.command("deploy", "2")
    made.world.settle()
    made.turn()
    made.begin()
    assert made.moving is not None
    made.world.command("rollback")
    made.world.settle()
    made.turn()
    made.end()
    assert made.aliases["champion"] == "2"
    made.rest()
    assert made.aliases == {"champion": "1", "previous": "2"}
    assert [r.reason for r in made.world.history].count("champion to version 2: health check") == 0


def test_while_the_registry_is_away_nothing_waits_and_the_last_one_is_written_when_it_is_back() -> None:
    made = registered()
    for version in ("2", "3"):
        made.world.command("deploy", version)
        made.world.settle()
        made.turn()
        made.begin()
        made.end(lost=True)
    assert made.aliases == {"champion": "1"}
    revision = made.world.routing.revision
    for _ in range(5):
        made.turn()
        made.begin()
        made.end(lost=True)
    assert made.world.routing.revision == revision
    made.rest()
    assert made.aliases == {"champion": "3", "previous": "2"}


def test_taking_note_of_the_registry_is_no_change_that_a_command_could_miss() -> None:
    made = registered()
    deploy = made.world.command("deploy", "2")
    made.world.settle()
    revision = made.world.routing.revision
    made.rest()
    assert made.world.routing.revision > revision
    back = made.world.command("rollback", expected_revision=revision)
    assert made.world.answers(deploy) == ["accepted", "done"]
    assert "conflict" not in made.world.answers(back)
    stale = made.world.command("rollback", expected_revision=revision)
    assert made.world.answers(stale) == ["conflict"]


def test_a_routing_of_before_there_were_promises_is_made_good() -> None:
    made = registered()
    made.world.command("deploy", "2")
    made.world.settle()
    forgotten = msgspec.structs.replace(made.world.routing, promoted=[])
    made.world.fleet = Fleet(forgotten, made.world.fleet.states)
    made.rest()
    assert made.aliases["champion"] == "2"


def test_what_the_registry_wished_is_no_command_of_anybody() -> None:
    """A command that was carried out, and comes again after a crash, is still known by its id."""
    from jobs.rollout.control import commanded
    from tests.jobs.rollout.simulated import RULES

    made = registered()
    back = made.world.command("load", "4")
    made.world.settle()
    made.person("2")
    made.rest()
    assert commanded(made.world.living(), back, made.world.clock.now(), RULES).routing is None
    assert made.world.routing.command == back.id


@pytest.mark.parametrize("seed", range(80))
def test_whatever_happens_they_agree_in_the_end(seed: int) -> None:
    chance = random.Random(seed)
    made = registered()
    versions = list("1234567")
    made.world.refused = set(chance.sample(versions[1:], 2))
    made.world.weak = set(chance.sample(versions[1:], 1))
    acts = ["person", "deploy", "rollback", "turn", "turn", "follow", "look", "begin", "end", "lost", "die"]
    for _ in range(60):
        act, version = chance.choice(acts), chance.choice(versions)
        if act == "person":
            made.person(version)
        elif act == "deploy":
            made.world.command("deploy", version)
        elif act == "rollback":
            made.world.command("rollback")
        elif act == "follow":
            made.world.follow()
        elif act in ("end", "lost"):
            made.end(lost=act == "lost")
        elif act == "die":
            made.die(lost=chance.random() < 0.5)
        else:
            getattr(made, act)()
    made.rest()
    made.agree()
    bad = made.world.refused | made.world.weak
    assert made.aliases["champion"] not in bad
    wish = chance.choice([one for one in versions if one not in bad])
    made.person(wish)
    made.rest()
    made.agree()
    assert made.aliases["champion"] == wish
    assert alias_move(made.world.routing, made.aliases) is None
    assert made.world.champion(wish) is NOTHING
