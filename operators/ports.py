"""What operators ask of the outside, as protocols. Engines and stores implement them; tests bring fakes."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Matrix = npt.NDArray[np.float32]


class Scorer(Protocol):
    """A loaded, verified model.

    Safe to call from one thread at a time. `name` and `version` go into every result. Implementations raise
    any exception on a batch that they cannot score; the operator isolates the rows that cause it.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def inputs(self) -> Sequence[str]:
        """The input columns, in the order of the matrix."""
        ...

    @property
    def output_range(self) -> tuple[float, float]:
        """The least and the greatest output, both included."""
        ...

    def encode(self, batch: pa.RecordBatch) -> Matrix:
        """Columns to one C-contiguous float32 matrix (rows, inputs); a missing value is NaN."""
        ...

    def encode_rows(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Matrix:
        """The same of few rows that are in no columns yet: `columns` names the values of each of them."""
        ...

    def score(self, matrix: Matrix) -> Matrix:
        """The outputs (rows,), float32, one per row of the matrix."""
        ...

    def check(self) -> None:
        """Score the golden inputs again; raises `core.errors.ModelError` when the outputs are not theirs."""
        ...

    def contributions(self, matrix: Matrix) -> Matrix:
        """Approximate share of every input in every row's log-odds: float32 (rows, inputs)."""
        ...


class FeatureReader(Protocol):
    """The online form of a view: what its features were, as of any time that is still held."""

    def read_rows(self, batch: pa.RecordBatch) -> Mapping[str, pa.Array]:
        """Feature columns of the rows, each as of its own event time and with its own record included.

        `batch` has tenant, id, the view's entity key, the event time and the aggregated columns. Raises
        `core.errors.Unavailable` while the store is away.
        """
        ...
