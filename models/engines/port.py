"""What every scoring engine is."""

from typing import Protocol

from models.encode import Matrix


class Engine(Protocol):
    """A model file that was loaded. One thread at a time."""

    @property
    def name(self) -> str:
        """`onnx` or `xgboost`."""
        ...

    def score(self, matrix: Matrix) -> Matrix:
        """Outputs (rows,), float32, a new array each time, of a C-contiguous float32 matrix (rows, inputs).

        No rows give no outputs. Raises ModelFailed.
        """
        ...
