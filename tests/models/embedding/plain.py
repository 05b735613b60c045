"""The network once more, in numpy and as the paper has it: one text at a time, one head after the other."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.embedding.weights import Weights

LAYERS, HEADS, WIDTH = 6, 12, 384
Array = npt.NDArray[np.float64]


def vector(weights: Weights, ids: Sequence[int]) -> Array:
    """In double precision: https://arxiv.org/abs/1810.04805, the mean of the last layer, length 1."""

    def weight(name: str) -> Array:
        return weights[name].astype(np.float64)

    def dense(value: Array, name: str) -> Array:
        return value @ weight(f"{name}.weight").T + weight(f"{name}.bias")

    def normal(value: Array, name: str) -> Array:
        centred = value - value.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return centred / deviation * weight(f"{name}.weight") + weight(f"{name}.bias")

    value = weight("embeddings.word_embeddings.weight")[list(ids)]
    value = value + weight("embeddings.position_embeddings.weight")[: len(ids)]
    value = normal(value + weight("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        parts = [dense(value, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        size = WIDTH // HEADS
        seen = np.empty_like(value)
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            query, key, content = (part[:, own] for part in parts)
            scores = np.exp(query @ key.T / math.sqrt(size))
            seen[:, own] = scores / scores.sum(axis=-1, keepdims=True) @ content
        value = normal(
            dense(seen, f"{name}.attention.output.dense") + value, f"{name}.attention.output.LayerNorm"
        )
        inner = dense(value, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1.0 + np.vectorize(math.erf)(inner / math.sqrt(2.0)))
        value = normal(dense(inner, f"{name}.output.dense") + value, f"{name}.output.LayerNorm")
    mean: Array = value.mean(axis=0)
    found: Array = mean / np.linalg.norm(mean)
    return found
