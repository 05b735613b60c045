"""Reasons: the inputs that raised a score the most."""

from dataclasses import dataclass

import numpy as np

from models.encode import Matrix
from models.signature import Signature


@dataclass(frozen=True)
class Share:
    """One input's share. `value` is what the record had: a number, a word, or None (missing or unknown)."""

    input: str
    value: float | str | None
    contribution: float


def top_shares(signature: Signature, matrix: Matrix, contributions: Matrix, *, k: int) -> list[list[Share]]:
    """Per row the `k` inputs that raised the log-odds most, largest first; fewer where fewer raised it.

    `matrix` and `contributions` are float32 (rows, inputs). Equal shares keep the order of the signature.
    """
    k = min(k, contributions.shape[1])
    order = np.argsort(-contributions, axis=1, kind="stable")[:, :k]
    rows: list[list[Share]] = []
    for numbers, shares, best in zip(matrix, contributions, order, strict=True):
        rows.append(
            [
                Share(signature.inputs[at].name, _value(signature, at, numbers[at]), float(shares[at]))
                for at in best.tolist()
                if shares[at] > 0
            ]
        )
    return rows


def _value(signature: Signature, at: int, number: np.float32) -> float | str | None:
    if np.isnan(number):
        return None
    words = signature.inputs[at].vocabulary
    return float(number) if words is None else words[int(number)]
