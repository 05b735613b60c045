"""A witness tells every head that moved, no oftener than it should, and is not woken by witnesses."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from core.clock import ManualClock
from jobs.audit.witness import KIND, Witness
from pipelines.audit.entry import HEADS, Chain
from pipelines.audit.writer import AuditWriter
from schemas.catalog.security import AuditEntry
from tests.pipelines.audit.chains import chain, findings
from tests.pipelines.audit.log import Log

WITHIN_S = 20.0


class World:
    def __init__(self) -> None:
        self.log, self.clock = Log(), ManualClock()
        self.writer = AuditWriter(Chain(KIND, host="host"), self.log, self.log, self.clock, queue=100)  # type: ignore[arg-type]
        self.writer.start()
        self.witness = Witness(self.writer, self.clock, interval_s=60.0)

    def later(self) -> None:
        self.clock.advance(timedelta(seconds=61))
        self.witness.tick()

    def told(self) -> list[AuditEntry]:
        """All that it witnessed; it is over then."""
        self.writer.close(WITHIN_S)
        return [entry for entry in self.log.arrived if entry.action == HEADS]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.writer.close(WITHIN_S)


def test_heads_are_told_once_an_interval_and_prove_the_chains(world: World) -> None:
    one, other = chain(), chain(4, "cli")
    world.witness.saw(one[:3])
    world.witness.tick()
    world.witness.saw([*one[3:], *other])
    world.later()
    world.later()
    (entry,) = world.told()
    assert {writer: text.split(" ")[0] for writer, text in entry.detail.items()} == {
        one[0].writer: "5",
        other[0].writer: "3",
    }
    assert findings([*one, *other, *world.log.arrived]) == []
    assert findings([*one[:4], *other, *world.log.arrived]) != []


def test_what_is_left_is_told_at_the_end(world: World) -> None:
    world.witness.saw(chain())
    world.witness.tick(last=True)
    assert len(world.told()) == 1


def test_two_witnesses_do_not_answer_each_other_for_ever(world: World) -> None:
    world.witness.saw(chain(4, KIND))
    for _ in range(5):
        world.later()
    world.witness.saw(chain(3, "gateway"))
    world.later()
    (entry,) = world.told()
    assert len(entry.detail) == 2  # the other witness is told along with what is news


def test_its_own_entries_are_none_that_it_tells(world: World) -> None:
    world.witness.saw(chain())
    world.later()
    world.writer.close(WITHIN_S)
    world.witness.saw(world.log.arrived)
    world.later()
    assert [world.writer.writer in entry.detail for entry in world.told()] == [False]


def test_many_heads_are_several_entries(world: World) -> None:
    for _ in range(150):
        world.witness.saw(chain(2))
    world.later()
    assert [len(entry.detail) for entry in world.told()] == [64, 64, 22]
