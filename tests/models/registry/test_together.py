"""Many at once: publishers, fetchers, one that is killed; and what goes on while MLflow is away."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import InvalidInput, ModelRefused, Unavailable
from core.settings import Mlflow, Settings
from models.load import load
from models.registry import Following, ModelRegistry, open_registry
from models.registry.serving_metrics import EXPERIMENT
from models.store import CHAMPION, MANIFEST, PREVIOUS, ModelStore
from tests.models import made

ROOT = Path(__file__).parents[3]
PUBLISH = """
import sys
from pathlib import Path
from core.settings import Settings
from models.registry import open_registry
from tests.models import made
registry = open_registry(Settings(home=Path(sys.argv[1])))
for _ in range(4):
    print(registry.publish("small", made.files(made.booster()), made.DESCRIPTION).version, flush=True)
"""
FETCH = """
import os, sys, time
from pathlib import Path
from core.settings import Settings
import models.store as store
from models.registry import open_registry
if sys.argv[2] == "slowly":
    write = store._write
    def slow(path, data):
        write(path, data)
        print("wrote", path.name, flush=True)
        time.sleep(60)
    store._write = slow
print(open_registry(Settings(home=Path(sys.argv[1]))).resolve("small", "1").version, flush=True)
"""
UNASKED = """
import sys
from pathlib import Path
from core.settings import Settings
from models.load import load
from models.registry import Following, open_registry
registry = open_registry(Settings(home=Path(sys.argv[1])))
assert load(registry.resolve("small", "1")).version == "1"
assert load(Following(registry).resolve("small")).version == "2"
print("mlflow" in sys.modules)
"""


def python(program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_two_processes_publish_and_lose_no_version(tmp_path: Path) -> None:
    """Into a data folder where nothing is yet, so that both want to make MLflow's tables."""
    both = [python(PUBLISH, str(tmp_path)) for _ in range(2)]
    printed = [line for process in both for line in process.communicate(timeout=200)[0].split()]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(printed, key=int) == [str(number) for number in range(1, 9)]
    registry = open_registry(Settings(home=tmp_path))
    assert registry.versions("small") == [str(number) for number in range(1, 9)]
    for version in printed:
        assert load(registry.resolve("small", version)).version == version


def test_many_fetchers_get_one_whole_version(
    of_server: Callable[[str], ModelRegistry], files: dict[str, bytes]
) -> None:
    of_server("here").publish("fetched", files, made.DESCRIPTION)
    there = [of_server("there") for _ in range(6)]
    found: list[str] = []

    def fetch(registry: ModelRegistry) -> None:
        found.append(load(registry.resolve("fetched", "1")).digest)

    threads = [threading.Thread(target=fetch, args=(registry,)) for registry in there]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 6
    assert len(set(found)) == 1
    cached = there[0].cache.resolve("fetched", "1").folder
    assert sorted(path.name for path in cached.iterdir()) == sorted([*files, MANIFEST])
    assert not list(cached.parent.glob(".keep-*"))


def test_a_fetcher_killed_in_the_middle_leaves_nothing_that_is_read(
    registry: ModelRegistry, home: Path, files: dict[str, bytes]
) -> None:
    stored = registry.publish("small", files, made.DESCRIPTION)
    os.rename(stored.folder, home / "put aside")
    slow = python(FETCH, str(home), "slowly")
    assert slow.stdout is not None
    assert slow.stdout.readline().startswith("wrote")
    assert not registry.cache.holds("small", "1"), "half a version is not there"
    slow.send_signal(signal.SIGKILL)
    slow.communicate(timeout=20)
    assert list(stored.folder.parent.glob(".keep-*"))
    began = time.monotonic()
    again = registry.resolve("small", "1")
    assert time.monotonic() - began < 10, "the lock of the killed one is free"
    assert {file: again.read(file) for file in files} == files
    assert not list(stored.folder.parent.glob(".keep-*"))


def test_a_publisher_killed_in_the_middle_leaves_a_version_that_nobody_serves(
    registry: ModelRegistry, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    with registry._connection.asking("reach the client") as client:

        def cut_short(*arguments: object) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(client, "log_artifacts", cut_short)
            patched.setattr(client, "delete_model_version", lambda *_: None)  # as after kill -9
            with pytest.raises(Killed):
                registry.publish("small", files, made.DESCRIPTION)
    assert registry.models()["small"].versions["1"].state == "incomplete"
    assert registry.versions("small") == []
    with pytest.raises(ModelRefused, match="not written to the end"):
        registry.resolve("small", "1")
    assert registry.publish("small", files, made.DESCRIPTION).version == "2"


def test_a_failed_upload_takes_its_version_away(
    registry: ModelRegistry, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "no space left on device")

    with registry._connection.asking("reach the client") as client, monkeypatch.context() as patched:
        patched.setattr(client, "log_artifacts", full)
        with pytest.raises(Unavailable, match="no space"):
            registry.publish("small", files, made.DESCRIPTION)
    assert list(registry.models()["small"].versions) == []
    assert not registry.cache.holds("small", "1")


def test_what_is_cached_needs_no_mlflow(registry: ModelRegistry, home: Path, files: dict[str, bytes]) -> None:
    for _ in range(2):
        registry.publish("small", files, made.DESCRIPTION)
    registry.set_alias("small", CHAMPION, "2")
    process = python(UNASKED, str(home))
    assert process.communicate(timeout=60)[0].strip() == "False"


def test_followers_see_every_move_made_on_their_machine(
    registry: ModelRegistry, home: Path, files: dict[str, bytes]
) -> None:
    worker = Following(open_registry(Settings(home=home)))
    for _ in range(2):
        registry.publish("small", files, made.DESCRIPTION)
    for version in ("1", "2", "1"):
        registry.set_alias("small", CHAMPION, version)
        assert worker.resolve("small").version == version
    assert worker.resolve("small", PREVIOUS).version == "2"


def test_cached_versions_go_on_while_the_server_is_away(tmp_path: Path, files: dict[str, bytes]) -> None:
    away = open_registry(Settings(home=tmp_path, mlflow=Mlflow(uri="http://127.0.0.1:9", timeout_s=2)))
    published = ModelStore(tmp_path / "elsewhere").publish("small", files, made.DESCRIPTION)
    signed = (published.folder / MANIFEST).read_bytes()
    began = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        away.resolve("small")
    assert raised.value.retryable
    away.cache.keep(signed, files)
    assert away.resolve("small", "1").version == "1"
    with pytest.raises(Unavailable):
        away.resolve("small", CHAMPION)
    from core.ids import digest

    away.cache.point("small", CHAMPION, "1", digest(signed))
    assert load(away.resolve("small", CHAMPION)).version == "1"
    for attempt in (
        lambda: away.resolve("small", "2"),
        lambda: away.versions("small"),
        lambda: away.names(),
        lambda: away.publish("small", files, made.DESCRIPTION),
        lambda: away.set_alias("small", CHAMPION, "1"),
        lambda: away.log_metrics("small", "1", {"records": 1.0}, datetime.now(UTC)),
    ):
        with pytest.raises(Unavailable):
            attempt()
    assert time.monotonic() - began < 60, "it is asked once each time, not for minutes"


def test_metrics_of_service_come_back(registry: ModelRegistry, files: dict[str, bytes]) -> None:
    registry.publish("small", files, made.DESCRIPTION)
    at = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
    for _ in range(2):  # a repeat is kept once
        registry.log_metrics("small", "1", {"records": 120.0, "latency_p99_ms": 3.5}, at)
    registry.log_metrics("small", "1", {"records": 80.0}, at.replace(minute=31))
    assert registry.describe("small", "1").metrics == {
        "serving/records": 80.0,
        "serving/latency_p99_ms": 3.5,
    }
    with registry._connection.asking("read the history") as client:
        (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
        history = [
            (m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, "serving/records")
        ]
    millis = int(at.timestamp() * 1000)
    assert sorted(history) == [(millis, 120.0), (millis + 60_000, 80.0)]
    with pytest.raises(InvalidInput, match="not a number"):
        registry.log_metrics("small", "1", {"mean_score": float("nan")}, at)
    registry.log_metrics("small", "1", {}, at)
