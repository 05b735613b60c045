"""Registries of a test's own: in a data folder, and on the server of the session."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.settings import Mlflow, Settings
from models.registry import ModelRegistry, open_registry
from tests.mlflow_fixture import Server


@pytest.fixture
def home(mlflow_tables: Path, tmp_path: Path) -> Path:
    """A data folder with an empty local registry in it."""
    (tmp_path / "home" / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_tables, tmp_path / "home" / "mlflow" / "mlflow.db")
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> ModelRegistry:
    """The local registry of an empty data folder."""
    return open_registry(Settings(home=home))


@pytest.fixture
def of_server(mlflow_server: Server, tmp_path: Path) -> Callable[[str], ModelRegistry]:
    """The server's registry, seen from a machine of that name with a data folder of its own."""

    def open_on(machine: str) -> ModelRegistry:
        return open_registry(Settings(home=tmp_path / machine, mlflow=Mlflow(uri=mlflow_server.uri)))

    return open_on
