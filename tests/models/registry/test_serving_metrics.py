"""Metrics of serving are kept for some days and no longer, however long a version serves."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.errors import InvalidInput, UnknownName
from core.settings import Mlflow, Settings
from models.registry import ModelRegistry, open_registry
from models.registry.serving_metrics import EXPERIMENT
from tests.models import made

FIRST = datetime(2026, 3, 4, 23, 30, tzinfo=UTC)


def kept(registry: ModelRegistry) -> set[tuple[str, str]]:
    with registry._connection.asking("read the runs") as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id])
    return {(run.data.tags["millstream.version"], run.data.tags["millstream.day"]) for run in runs}


def test_a_local_store_holds_some_days_of_values_and_no_more(home: Path, files: dict[str, bytes]) -> None:
    registry = open_registry(Settings(home=home, mlflow=Mlflow(serving_days=3)))
    for _ in range(2):
        registry.publish("small", files, made.DESCRIPTION)
    database = sqlite3.connect(home / "mlflow" / "mlflow.db")

    def rows() -> int:
        (found,) = database.execute("SELECT count(*) FROM metrics WHERE key LIKE 'serving/%'").fetchone()
        return int(found)

    counts = []
    for day in range(9):
        version = "1" if day < 4 else "2"
        for minute in range(3):
            at = FIRST + timedelta(days=day, minutes=minute)
            registry.log_metrics("small", version, {"records": float(day), "errors": 0.0}, at)
        counts.append(rows())
    assert counts == [6, 12, *[18] * 7]
    days = {f"{FIRST + timedelta(days=day):%Y-%m-%d}" for day in (6, 7, 8)}
    assert kept(registry) == {("2", day) for day in days}
    assert registry.describe("small", "2").metrics["serving/records"] == 8.0
    assert "serving/records" not in registry.describe("small", "1").metrics
    assert [version.version for version in registry.models()["small"].versions.values()] == ["1", "2"]


def test_a_run_that_somebody_deleted_is_begun_again(registry: ModelRegistry, files: dict[str, bytes]) -> None:
    registry.publish("small", files, made.DESCRIPTION)
    registry.log_metrics("small", "1", {"records": 1.0}, FIRST)
    with registry._connection.asking("delete it") as client:
        (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
        client.delete_run(run.info.run_id)
    with pytest.raises(InvalidInput):
        registry.log_metrics("small", "1", {"records": 2.0}, FIRST + timedelta(minutes=1))
    registry.log_metrics("small", "1", {"records": 2.0}, FIRST + timedelta(minutes=1))
    assert registry.describe("small", "1").metrics == {"serving/records": 2.0}


def test_a_version_that_is_not_there_has_no_metrics(registry: ModelRegistry, files: dict[str, bytes]) -> None:
    registry.publish("small", files, made.DESCRIPTION)
    for name, version in (("small", "7"), ("other", "1")):
        with pytest.raises(UnknownName):
            registry.log_metrics(name, version, {"records": 1.0}, FIRST)
    with pytest.raises(InvalidInput):
        registry.log_metrics("x' OR '1'='1", "1", {"records": 1.0}, FIRST)


def test_of_a_server_old_days_are_deleted_too(
    of_server: Callable[[str], ModelRegistry], files: dict[str, bytes]
) -> None:
    registry = of_server("here")
    registry.publish("metered", files, made.DESCRIPTION)
    for day in range(9):
        registry.log_metrics("metered", "1", {"records": float(day)}, FIRST + timedelta(days=day))
    assert len([one for one in kept(registry) if one[0] == "1"]) == 7
    assert registry.describe("metered", "1").metrics["serving/records"] == 8.0
