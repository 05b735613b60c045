"""Texts to vectors of unit length: tokens, then the network, texts of one length in one call."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from core.errors import ModelFailed, ModelRefused
from models.embedding import graph, weights
from models.embedding.wordpiece import WordPiece

Vectors = npt.NDArray[np.float32]
CALL_TOKENS = 2_048
"""About as many tokens in one call: above it a call takes longer in the same proportion."""
_GOLDEN = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
_SIMILARITIES = (0.6660, 0.1046, 0.1411)
"""What sentence-transformers' own introduction prints for those: 1 and 2, 1 and 3, 2 and 3."""


class Encoding(Protocol):
    """What makes vectors; both methods may be called in any thread, `vectors` in one at a time."""

    def tokens(self, text: str, *, most: int) -> list[int] | None: ...
    def vectors(self, texts: Sequence[Sequence[int]]) -> Vectors: ...


class Encoder:
    """The model, loaded."""

    def __init__(self, words: WordPiece, session: onnxruntime.InferenceSession) -> None:
        self._words = words
        self._session = session

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1) -> "Encoder":
        """From the files of `weights.fetch`. Raises ModelRefused where it does not give what it should."""
        found, vocabulary = weights.read(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            graph.build(found), options, providers=["CPUExecutionProvider"]
        )
        made = cls(WordPiece(vocabulary), session)
        made._check()
        return made

    def tokens(self, text: str, *, most: int) -> list[int] | None:
        """The ids of a text; None where they are more than `most`."""
        return self._words.encode(text, most=most)

    def vectors(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """[texts, 384], in their order. Raises ModelFailed."""
        found = np.empty((len(texts), weights.WIDTH), np.float32)
        by_length: dict[int, list[int]] = defaultdict(list)
        for at, ids in enumerate(texts):
            by_length[len(ids)].append(at)
        for length, places in by_length.items():
            step = max(1, CALL_TOKENS // length)
            for begin in range(0, len(places), step):
                part = places[begin : begin + step]
                given = np.array([texts[at] for at in part], np.int64)
                found[part] = self._session.run(["vectors"], {"ids": given})[0]
        if not np.isfinite(found).all():
            raise ModelFailed("a vector is not finite")
        return found

    def _check(self) -> None:
        texts = [self.tokens(text, most=64) or [] for text in _GOLDEN]
        made = self.vectors(texts)
        similar = made @ made.T
        if not np.allclose([similar[0, 1], similar[0, 2], similar[1, 2]], _SIMILARITIES, atol=1e-3):
            raise ModelRefused("the model does not give the similarities that its makers state")
