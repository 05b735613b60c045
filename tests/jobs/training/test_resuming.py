"""A search that was killed in the middle gives, resumed, what an unbroken one gives."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from core.clock import SystemClock
from core.errors import Conflict, UnknownName
from jobs.training.run_folder import RunFolder, RunState
from jobs.training.runner import carry_out
from jobs.training.trials import Judged, Trials
from models.store import ModelStore
from tests.jobs.training.small import QUICK, SEARCHED, rows, surroundings, train

ROOT = Path(__file__).parents[3]


def until(reached: Callable[[], bool], within_s: float = 240.0) -> None:
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunState, Path]:
    root = tmp_path_factory.mktemp("unbroken")
    return train(SEARCHED, root, table=rows()), root


def test_a_search_killed_in_the_middle_gives_the_same(
    unbroken: tuple[RunState, Path], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path, "run")
    child = subprocess.Popen([sys.executable, "-m", "tests.jobs.training.killed", str(tmp_path)], cwd=ROOT)
    try:
        until(lambda: folder.exists and folder.load().trials_done >= 2)
        helpers = psutil.Process(child.pid).children(recursive=True)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    cut = folder.load()
    assert (cut.state, cut.stage) == ("running", "search")
    assert 2 <= cut.trials_done < SEARCHED.search.trials
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in helpers), 30)

    state = carry_out(folder, surroundings(tmp_path))
    expected, root = unbroken
    assert state.attempts == 2
    assert [stage.name for stage in state.done] == [stage.name for stage in expected.done]
    assert (folder.path / "trials.json").read_bytes() == (root / "runs/run/trials.json").read_bytes()
    assert state.details("evaluate") == expected.details("evaluate")
    ours, theirs = (ModelStore(at / "models").resolve("fraud") for at in (tmp_path, root))
    assert ours.read("model.onnx") == theirs.read("model.onnx")


def test_the_search_prunes_and_keeps_the_best(unbroken: tuple[RunState, Path]) -> None:
    state, root = unbroken
    trials = json.loads((root / "runs/run/trials.json").read_text())
    assert [one["place"] for one in trials] == list(range(SEARCHED.search.trials))
    whole = [one for one in trials if not one["judged"]["pruned"]]
    best = max(whole, key=lambda one: one["judged"]["means"][-1])
    assert state.details("search")["best"][0]["settings"] == best["settings"]
    assert {one["settings"]["engine"] for one in trials} == {"xgboost", "lightgbm"}
    assert len(state.details("evaluate")["backtest"]) == 2


@pytest.mark.parametrize("told", range(5))
def test_trials_do_not_depend_on_where_they_were_cut(told: int, tmp_path: Path) -> None:
    """Asked for, half told, told: a study opened anew goes on as if it had never been closed."""

    def judge(trials: Trials, *, stop_after: int = 99) -> None:
        for number, asked in enumerate(trials.rounds()):
            found = [
                (one, Judged((one.settings.learning_rate, one.settings.row_share), False)) for one in asked
            ]
            if number == stop_after // 2:
                trials.tell(found[: stop_after % 2])  # none, or one of the two
                return
            trials.tell(found)

    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    judge(whole := Trials(tmp_path / "whole", SEARCHED))
    judge(Trials(tmp_path / "cut", SEARCHED), stop_after=told)
    judge(resumed := Trials(tmp_path / "cut", SEARCHED))
    assert resumed.all() == whole.all()


def test_a_run_that_ended_stays_as_it_is(tmp_path: Path) -> None:
    state = train(QUICK, tmp_path, table=rows())
    again = carry_out(RunFolder(tmp_path, "run"), surroundings(tmp_path))
    assert again == state
    assert ModelStore(tmp_path / "models").versions("fraud") == ["1"]


def test_a_registration_that_was_cut_short_is_not_repeated(tmp_path: Path) -> None:
    """Killed between publishing and noting it: the version is taken, not published again."""
    folder = RunFolder(tmp_path, "run")
    train(QUICK, tmp_path, table=rows())
    state = folder.load()
    kept = tuple(stage for stage in state.done if stage.name not in ("register", "deploy", "experiment"))
    from jobs.training.classification.publish import published
    from jobs.training.workspace import Workspace

    folder.save(replace(state, state="running", done=kept, version=None))
    space = Workspace(folder, surroundings(tmp_path), SystemClock())
    found = published(space)
    assert found is not None
    assert found.version == "1"


def test_two_processes_do_not_work_on_one_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "run")
    with folder.held(), pytest.raises(Conflict, match="another process"), folder.held():
        pass
    assert not folder.busy()
    with pytest.raises(UnknownName):
        RunFolder(tmp_path, "other").load()
