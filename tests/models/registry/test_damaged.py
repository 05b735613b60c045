"""Damaged models: refused by their digest; and with a digest that was made again, by what they answer."""

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from core.clock import SystemClock
from core.errors import MillstreamError, ModelRefused
from models import golden
from models.encode import Encoder
from models.engines.onnx import OnnxEngine
from models.export import splits_of
from models.golden import TOLERANCE
from models.registry import ModelRegistry
from models.registry.admission import admit
from models.store import GOLDEN, MODEL, ModelStore
from tests.models import made
from tests.models.registry.mutants import Mutant, mutants

AT_LEAST = 200
POOL = 20_000
ROWS = 20_000


@pytest.fixture(scope="module")
def files(files: dict[str, bytes]) -> dict[str, bytes]:
    """With golden rows as a training chooses them."""
    rows = made.rows(POOL, seed=99)
    chosen = golden.choose(Encoder(made.SIGNED).encode(rows), splits_of(made.booster()))
    kept = pa.table(rows).take(chosen)
    expected = made.scores(files[MODEL], kept.combine_chunks().to_batches()[0])
    return {**files, GOLDEN: golden.pack(kept, expected, made.SIGNED)}


@pytest.fixture(scope="module")
def damaged(files: dict[str, bytes]) -> list[Mutant]:
    found = mutants(files)
    assert len({data for _, data in found}) == len(found)
    return found


def test_damage_in_the_registry_is_refused_by_its_digest(
    registry: ModelRegistry, files: dict[str, bytes], damaged: list[Mutant]
) -> None:
    """Every mutant takes the model's place among the artifacts; a machine without a cache asks for it."""
    stored = registry.publish("small", files, made.DESCRIPTION)
    place = Path(registry.models()["small"].versions["1"].source) / MODEL
    reasons: Counter[str] = Counter()
    for name, data in damaged:
        shutil.rmtree(stored.folder)
        place.write_bytes(data)
        with pytest.raises(ModelRefused) as refused:
            registry.resolve("small", "1")
        reasons[_kind(refused.value)] += 1
        assert not stored.folder.exists(), name
        place.write_bytes(files[MODEL])
        registry.resolve("small", "1")
    print(f"\n{len(damaged)} mutants in the registry: {dict(reasons)}")
    assert reasons.total() == len(damaged) >= AT_LEAST


def test_damage_in_the_cache_is_refused_by_its_digest(store: ModelStore, damaged: list[Mutant]) -> None:
    stored = store.resolve("small")
    for name, data in damaged:
        (stored.folder / MODEL).write_bytes(data)
        with pytest.raises(ModelRefused, match=r"SHA-256|bytes"):
            stored.read(MODEL)
        assert name


def test_damage_with_a_digest_of_its_own_is_refused_by_what_it_answers(
    files: dict[str, bytes], damaged: list[Mutant]
) -> None:
    """A mutant that answers as the model does on 20,000 other rows is equivalent, and not counted."""
    refused: Counter[str] = Counter()
    equivalent, slipped = [], []
    for name, data in damaged:
        try:
            admit("small", {**files, MODEL: data}, made.DESCRIPTION, clock=SystemClock())
        except ModelRefused as error:
            refused[_kind(error)] += 1
        else:
            (equivalent if _answers_alike(files[MODEL], data) else slipped).append(name)
    print(f"\n{refused.total()} of {len(damaged)} refused: {dict(refused)}; equivalent: {equivalent}")
    assert slipped == []
    assert refused.total() >= AT_LEAST
    assert refused["golden outputs differ"] >= 40


def _answers_alike(model: bytes, mutant: bytes) -> bool:
    matrix = Encoder(made.SIGNED).encode(made.rows(ROWS, seed=1234))
    width = matrix.shape[1]
    try:
        got = OnnxEngine(mutant, inputs=width, where="mutant").score(matrix)
    except MillstreamError:
        return False
    expected = OnnxEngine(model, inputs=width, where="model").score(matrix)
    return bool(got.shape == expected.shape and np.all(np.abs(got - expected) <= TOLERANCE))


def _kind(error: ModelRefused) -> str:
    for kind in (
        "golden outputs differ", "golden rows", "SHA-256", "bytes", "no ONNX", "outside its file",
        "ONNX Runtime", "the signature says", "not one float32", "do not go through",
    ):  # fmt: skip
        if kind in error.what:
            return kind
    return re.sub(r"[0-9]+", "N", error.what)
