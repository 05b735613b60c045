"""Raised alerts on a real Redis: told once each way by processes that come, go and die, against a model."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
import redis

from core.errors import Unavailable
from core.ids import new_id
from pipelines.on_redis.raised import KEY, Due, RaisedAlerts
from tests.features.redis_server import RedisServer, own_redis

pytestmark = pytest.mark.services
HOLD = timedelta(minutes=1)
START_MS = 1_790_000_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


def watcher(server: RedisServer, source: str, instance: str) -> RaisedAlerts:
    return RaisedAlerts(redis.Redis(port=server.port), source=source, instance=instance)


@dataclass
class Model:
    """What should be due, in plain words: raised by who sees it and was not told; cleared when told and
    nobody has seen it within the hold."""

    since: int | None = None
    told: bool = False
    seen: dict[str, int] = field(default_factory=dict)

    def settle(self, who: str, seen: bool, now: int, hold: timedelta) -> Due | None:
        if seen:
            self.since = now if self.since is None else self.since
            self.seen[who] = now
        else:
            self.seen.pop(who, None)
        if self.since is None:
            return None
        hold_ms = hold / timedelta(milliseconds=1)
        self.seen = {who: at for who, at in self.seen.items() if now - at < hold_ms}
        held = bool(self.seen)
        if self.told and not held:
            return Due("clear", self.since)
        if seen and not self.told:
            return Due("raise", self.since)
        if not held:
            self.since, self.seen = None, {}
        return None

    def tell(self, due: Due) -> None:
        if due.what == "raise":
            self.told = True
        else:
            self.since, self.told, self.seen = None, False, {}


@pytest.mark.parametrize("seed", range(8))
def test_what_is_due_is_what_the_model_says(server: RedisServer, seed: int) -> None:
    chance = random.Random(seed)
    source, model, now = new_id(), Model(), START_MS
    watchers = {who: watcher(server, source, who) for who in "abc"}
    told: list[Due] = []
    for _ in range(120):
        now += chance.choice((10, 5_000, 5_000, 70_000))
        who, seen = chance.choice("abc"), chance.random() < 0.4
        hold = chance.choice((HOLD, HOLD / 5))
        due = watchers[who].settle("t", seen, since_ms=now, now_ms=now, hold=hold)
        assert due == model.settle(who, seen, now, hold)
        if due is not None and chance.random() < 0.7:  # else it died before it was acknowledged
            watchers[who].told("t", due, now_ms=now)
            model.tell(due)
            told.append(due)
    assert [due.what for due in told] == ["raise", "clear"] * (len(told) // 2) + ["raise"] * (len(told) % 2)
    assert len(told) > 4
    for raised, cleared in zip(told[::2], told[1::2], strict=False):
        assert raised.since_ms == cleared.since_ms


def test_one_that_is_seen_again_while_its_clearing_is_told_begins_anew(server: RedisServer) -> None:
    source = new_id()
    first, other = watcher(server, source, "a"), watcher(server, source, "b")
    raised = first.settle("t", True, since_ms=1, now_ms=1, hold=HOLD)
    assert raised is not None
    first.told("t", raised, now_ms=1)
    cleared = first.settle("t", False, since_ms=2, now_ms=2, hold=HOLD)
    assert cleared == Due("clear", 1)
    assert other.settle("t", True, since_ms=3, now_ms=3, hold=HOLD) is None
    first.told("t", cleared, now_ms=4)
    assert other.settle("t", True, since_ms=3, now_ms=5, hold=HOLD) == Due("raise", 4)


def test_names_are_apart_and_nothing_stays_behind(server: RedisServer) -> None:
    source = new_id()
    made = watcher(server, source, "a")
    assert made.settle("t", False, since_ms=1, now_ms=1, hold=HOLD) is None
    due = made.settle("t", True, since_ms=2, now_ms=2, hold=HOLD)
    assert made.settle("u", False, since_ms=2, now_ms=2, hold=HOLD) is None
    assert due is not None
    client = redis.Redis(port=server.port)
    assert 0 < client.pttl(f"{KEY}{source}:t") <= timedelta(days=7) / timedelta(milliseconds=1)  # type: ignore[operator]
    made.told("t", due, now_ms=3)
    cleared = made.settle("t", False, since_ms=4, now_ms=4, hold=HOLD)
    assert cleared is not None
    made.told("t", cleared, now_ms=5)
    assert client.keys(f"{KEY}{source}*") == []


def test_a_redis_that_is_away_is_unavailable() -> None:
    made = RaisedAlerts(redis.Redis(port=1, socket_connect_timeout=0.2), source="s", instance="a")
    with pytest.raises(Unavailable):
        made.settle("t", True, since_ms=1, now_ms=1, hold=HOLD)
