"""ONNX Runtime on the CPU: probabilities for a matrix in one call."""

import numpy as np
import onnxruntime

from core.errors import ModelFailed, ModelRefused
from models.encode import Matrix


class OnnxEngine:
    """A session over a verified model file.

    `threads` is the number of threads of one call. One is the default: a call on 512 rows and 200 trees
    takes about 3 ms, workers scale by partitions, and waiting threads that spin would cost processor time.
    """

    def __init__(self, model: bytes, *, inputs: int, where: str, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class of its own
            raise ModelRefused(
                f"ONNX Runtime cannot load the model: {str(error)[:300]}",
                where=where,
                mend="train and publish the model again",
            ) from error
        given, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(given) != 1 or given[0].type != "tensor(float)" or given[0].shape[1:] != [inputs]:
            raise ModelRefused(
                f"the model takes {[(i.name, i.type, i.shape) for i in given]}, the signature says "
                f"float32 (rows, {inputs})",
                where=where,
                mend="publish model and signature together",
            )
        if len(outputs) != 1 or outputs[0].type != "tensor(float)":
            raise ModelRefused(
                f"the model gives {[(o.name, o.type, o.shape) for o in outputs]}, not one float32 per row",
                where=where,
                mend="export the probability as the only output",
            )
        self._input, self._outputs = given[0].name, [outputs[0].name]
        self._where = where

    def score(self, matrix: Matrix) -> Matrix:
        """Probabilities (rows,), float32, of a C-contiguous matrix (rows, inputs). Raises ModelFailed."""
        if not len(matrix):
            return np.empty(0, np.float32)
        try:
            (out,) = self._session.run(self._outputs, {self._input: matrix})
        except Exception as error:  # as above
            raise ModelFailed(
                f"ONNX Runtime failed: {str(error)[:300]}", where=self._where, mend="see the record's values"
            ) from error
        scores: Matrix = out.reshape(-1)
        return scores
