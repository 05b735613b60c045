"""Vectors of the real model: as its makers state them, as numpy computes them, and alone as among others."""

from pathlib import Path

import numpy as np
import pytest

from core.errors import ModelRefused
from models.embedding import weights
from models.embedding.encoder import Encoder, Vectors
from tests.models.embedding.plain import vector

SENTENCES = (
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "card payment declined: insufficient funds",
    "the transaction was refused because there was no money on the account",
    "a recipe for apple pie with cinnamon",
    "Zahlung",
)


def made(encoder: Encoder, *texts: str) -> Vectors:
    return encoder.vectors([encoder.tokens(text, most=256) or [] for text in texts])


def test_similarities_are_those_that_the_makers_print(encoder: Encoder) -> None:
    """https://sbert.net/docs/quickstart.html prints this table for all-MiniLM-L6-v2."""
    found = made(encoder, *SENTENCES[:3])
    table = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(found @ found.T, table, atol=1e-4)


def test_vectors_are_those_of_a_plain_computation(encoder: Encoder, minilm: Path) -> None:
    plain, _ = weights.read(minilm)
    for text, got in zip(SENTENCES, made(encoder, *SENTENCES), strict=True):
        ids = encoder.tokens(text, most=256)
        assert ids is not None
        np.testing.assert_allclose(got, vector(plain, ids), atol=2e-6)


def test_alone_as_among_others_and_of_length_one(encoder: Encoder) -> None:
    texts = [" ".join(SENTENCES[: 1 + number % 5]) + f" {number}" for number in range(90)]
    together = made(encoder, *texts)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
    for at in (0, 1, 44, 89):
        np.testing.assert_allclose(made(encoder, texts[at])[0], together[at], atol=1e-6)


def test_what_means_the_same_is_nearest(encoder: Encoder) -> None:
    found = made(encoder, *SENTENCES)
    near = (found @ found.T)[3]
    assert [int(at) for at in np.argsort(-near)[:2]] == [3, 4]


def test_a_text_that_is_too_long_has_no_tokens(encoder: Encoder) -> None:
    assert encoder.tokens("word " * 254, most=256) is not None
    assert encoder.tokens("word " * 255, most=256) is None
    assert len(encoder.tokens("", most=256) or ()) == 2


def test_other_weights_are_refused(minilm: Path, tmp_path: Path) -> None:
    """A file that is whole and gives something is not enough."""
    data = bytearray((minilm / "model.safetensors").read_bytes())
    for at in range(len(data) - 4_000_000, len(data) - 1_000_000, 4):
        data[at + 3] ^= 0x80  # the signs of a part of the weights
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    with pytest.raises(ModelRefused):
        Encoder.load(tmp_path)


@pytest.mark.parametrize(
    "damage", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}"[:9], b"\x05\0\0\0\0\0\0\0[1,2]", b"x" * 100]
)
def test_what_is_no_safetensors_is_refused(damage: bytes) -> None:
    with pytest.raises(ModelRefused):
        weights.tensors(damage)


def test_a_file_in_the_cache_that_is_another_is_refused(minilm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "all-minilm-l6-v2"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"not the pinned one")
    (folder / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    with pytest.raises(ModelRefused, match="wrong digest"):
        weights.fetch(tmp_path)
