from pathlib import Path

import pytest

from models.store import CHAMPION, ModelStore
from tests.models import made


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    return made.files(made.booster())


@pytest.fixture
def store(tmp_path: Path, files: dict[str, bytes]) -> ModelStore:
    """A store with one version of `small`, its champion."""
    store = ModelStore(tmp_path / "models", clock=made.CLOCK)
    store.publish("small", files, made.DESCRIPTION)
    store.set_alias("small", CHAMPION, "1")
    return store
