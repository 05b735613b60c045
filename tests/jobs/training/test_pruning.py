"""Folders of old runs go; what somebody may still need stays."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from core.clock import ManualClock
from core.errors import Unavailable
from jobs.training.run_folder import RunFolder, RunState, prune, runs
from jobs.training.scheduler import Scheduler
from models.store import CHAMPION, STAGING, ModelStore
from pipelines.training.reading import shipped
from tests.models import made

NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)
ENDED = ("succeeded", "needs_attention", "failed")


def run(root: Path, id: str, days: float, *, model: str = "fraud", **changes: object) -> RunFolder:
    """A run that began, and changed last, so many days ago."""
    at = NOW - timedelta(days=days)
    configuration = msgspec.structs.replace(shipped("fraud"), name=model)
    state = RunState(
        id=id, tenant="acme", asked_by="key", configuration=configuration, promote=False, created_at=at,
        changed_at=at, state="succeeded",
    )  # fmt: skip
    folder = RunFolder(root, id)
    folder.create(msgspec.structs.replace(state, **changes))
    return folder


def there(root: Path) -> set[str]:
    return {folder.id for folder in runs(root)}


def pruned(root: Path, store: ModelStore, *, runs_kept: int = 1, days_kept: float = 10) -> set[str]:
    return set(prune(root, store, runs_kept=runs_kept, days_kept=days_kept, now=NOW))


def test_the_newest_and_the_young_stay(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    for id, days in (("a", 40), ("b", 30), ("c", 20), ("d", 9)):
        run(tmp_path, id, days)
    run(tmp_path, "other", 50, model="demand")
    assert pruned(tmp_path, store, runs_kept=2) == {"a", "b"}
    assert there(tmp_path) == {"c", "d", "other"}
    assert not list((tmp_path / "runs").glob(".*"))
    assert pruned(tmp_path, store, runs_kept=2) == set()


def test_what_is_worked_on_or_has_an_alias_stays_however_old(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    for _ in range(3):
        store.publish("fraud", made.files(made.booster()), made.DESCRIPTION)
    store.set_alias("fraud", CHAMPION, "1")
    store.set_alias("fraud", STAGING, "2")
    run(tmp_path, "champion", 90, version="1")
    run(tmp_path, "staged", 80, version="2")
    run(tmp_path, "forgotten", 70, version="3")
    run(tmp_path, "waits", 60, state="queued")
    run(tmp_path, "killed", 50, state="running")
    held = run(tmp_path, "held", 40, state="failed")
    run(tmp_path, "broken", 30)
    (tmp_path / "runs" / "broken" / "state.json").write_text("{")
    run(tmp_path, "newest", 20)
    with held.held():
        assert pruned(tmp_path, store) == {"forgotten"}
    assert pruned(tmp_path, store) == {"held"}
    assert there(tmp_path) == {"champion", "staged", "waits", "killed", "broken", "newest"}
    store.set_alias("fraud", CHAMPION, "3")  # version 1 is where a rollback goes now
    assert pruned(tmp_path, store) == set()


def test_nothing_goes_while_the_registry_is_away_and_what_a_killed_one_left_goes_next(tmp_path: Path) -> None:
    class Away(ModelStore):
        def aliases(self, name: str) -> dict[str, str]:
            raise Unavailable("MLflow is away")

    for id, days in (("a", 40), ("b", 30)):
        run(tmp_path, id, days)
    with pytest.raises(Unavailable):
        pruned(tmp_path, Away(tmp_path / "models"))
    assert there(tmp_path) == {"a", "b"}
    (tmp_path / "runs" / "a").rename(tmp_path / "runs" / ".gone-a")
    assert pruned(tmp_path, ModelStore(tmp_path / "models")) == set()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["b"]


@pytest.mark.parametrize("seed", range(20))
def test_against_a_plain_reading_of_the_rule(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kept, days = chance.randint(1, 4), chance.choice([0.0, 5.0, 20.0])
    known = {}
    for number in range(chance.randint(0, 14)):
        age, state = chance.uniform(0, 40), chance.choice([*ENDED, "running"])
        known[f"r{number}"] = (age, state)
        run(tmp_path, f"r{number}", age, state=state)
    expected = {
        id
        for id, (age, state) in known.items()
        if state in ENDED and age > days and sum(other < age for other, _ in known.values()) >= kept
    }
    removed = pruned(tmp_path, ModelStore(tmp_path / "models"), runs_kept=kept, days_kept=days)
    assert removed == expected
    assert there(tmp_path) == known.keys() - expected


def test_a_scheduler_goes_on_when_a_run_it_knew_is_gone(tmp_path: Path) -> None:
    run(tmp_path, "old", 40)
    run(tmp_path, "new", 1)
    told: list[str] = []

    def start(id: str) -> None:
        raise AssertionError(id)

    scheduler = Scheduler(
        tmp_path,
        {},
        start=start,  # type: ignore[arg-type]
        publish=lambda state: told.append(state.id),
        clock=ManualClock(NOW),
        most=1,
    )
    assert pruned(tmp_path, ModelStore(tmp_path / "models")) == {"old"}
    scheduler.step()
    scheduler.step()
    assert told == ["new"]
