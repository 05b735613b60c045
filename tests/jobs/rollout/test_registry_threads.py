"""The two threads between controller and registry: what one model has wrong is no other model's matter, and
nothing that was to be written is forgotten while the registry is away."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.errors import Unavailable
from jobs.rollout.aliases import AliasMove
from jobs.rollout.registry_watch import AliasWatch
from jobs.rollout.registry_writer import AGAIN_S, RegistryWriter, Served
from models.store import ModelStore
from tests.jobs.rollout.versions import VersionFolder
from tests.jobs.worker.on_kafka import until

AT = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)


class Sometimes(VersionFolder):
    """A folder of versions that can be away, or slow. `calls`: what was asked of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.away = False
        self.calls = 0
        self.slow = threading.Event()
        self.slow.set()

    def settle_aliases(
        self, name: str, champion: str, previous: str | None, *, instead_of: Sequence[str]
    ) -> bool:
        self.calls += 1
        assert self.slow.wait(60)
        if self.away:
            raise Unavailable("away")
        return super().settle_aliases(name, champion, previous, instead_of=instead_of)

    def log_metrics(self, name: str, version: str, metrics: Mapping[str, float], at: datetime) -> None:
        if self.away:
            raise Unavailable("away")
        if version == "gone":
            raise RuntimeError("no such version")
        super().log_metrics(name, version, metrics, at)


class Desk:
    def __init__(self, folder: Path) -> None:
        self.registry = Sometimes(folder)
        for model in "ab":
            self.registry.put(model, "1")
            self.registry.put(model, "2")
            self.registry.promote(model, "1")
        self.watch = AliasWatch(self.registry, every_s=3600)
        self.watch.look()
        self.clock = ManualClock()
        self.writer = RegistryWriter(self.registry, self.watch.look, clock=self.clock)
        self.writer.start()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.registry.slow.set()
    made.writer.stop()


def move(model: str, to: str = "2") -> AliasMove:
    return AliasMove(model, to, "1" if to == "2" else "2", ("1", "2"))


def test_what_was_moved_has_been_seen_when_the_writer_is_done(desk: Desk) -> None:
    desk.registry.slow.clear()
    desk.writer.want([move("a"), move("b")])
    until(lambda: desk.registry.calls == 1, "it begins")
    assert desk.writer.hold() == "a"
    assert desk.watch.champions == {"a": "1", "b": "1"}
    desk.registry.slow.set()
    until(lambda: desk.writer.hold() is None, "it ends")
    assert desk.watch.aliases["a"] == {"champion": "2", "previous": "1"}
    assert desk.watch.champions == {"a": "2", "b": "1"}, "what is held back is not begun"
    assert desk.registry.calls == 1


def test_a_move_that_was_not_made_is_tried_again_and_no_more_often_than_it_should(desk: Desk) -> None:
    desk.registry.away = True
    desk.writer.want([move("a")])
    until(lambda: desk.registry.calls == 1, "it is tried")
    until(lambda: desk.writer.hold() is None, "it ends")
    desk.registry.away = False
    for _ in range(50):  # turns of the controller
        desk.writer.hold()
        desk.writer.want([move("a"), move("b")])
        if desk.watch.champions["b"] == "2":
            break
    until(lambda: desk.watch.champions == {"a": "1", "b": "2"}, "the other model's is moved at once")
    desk.clock.advance(timedelta(seconds=AGAIN_S))
    desk.writer.want([move("a")])
    until(lambda: desk.watch.champions["a"] == "2", "it is tried again")
    assert desk.registry.calls == 3


def test_somebody_elses_champion_is_left_alone(desk: Desk) -> None:
    desk.registry.put("a", "3")
    desk.registry.promote("a", "3")
    desk.writer.want([move("a")])
    until(lambda: desk.watch.champions["a"] == "3", "it is seen")
    assert desk.registry.aliases("a") == {"champion": "3"}


def test_figures_wait_for_the_registry_in_their_order(desk: Desk) -> None:
    desk.registry.away = True
    for number, version in enumerate(["1", "gone", "2", "1"]):
        desk.writer.log(Served("a", version, {"records": float(number)}, AT))
    desk.registry.away = False
    desk.writer.log(Served("a", "2", {"records": 4.0}, AT))
    until(lambda: len(desk.registry.logged) == 4, "they are logged")
    assert [one[2]["records"] for one in desk.registry.logged] == [0.0, 2.0, 3.0, 4.0]


def test_an_alias_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    for name in ("damaged", "good"):
        for alias in ("champion", "previous"):
            store.point(name, alias, "1", "0" * 64)
    (tmp_path / "damaged" / "champion").write_bytes(b"{")
    watch = AliasWatch(store, every_s=3600)
    watch.look()
    assert watch.aliases == {"damaged": {"previous": "1"}, "good": {"champion": "1", "previous": "1"}}
    assert watch.champions == {"good": "1"}
