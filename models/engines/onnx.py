"""ONNX Runtime: outputs for a matrix in one call, on a GPU where this build has one, else on the CPU."""

import numpy as np
import onnxruntime

from core.errors import ModelFailed, ModelRefused
from models.encode import Matrix


def providers() -> list[str]:
    """The execution providers asked for, best first: CUDA where this build of ONNX Runtime has it."""
    offered = onnxruntime.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in offered]


class OnnxEngine:
    """A session over a verified model file. One thread at a time.

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
            self._session = onnxruntime.InferenceSession(model, options, providers=providers())
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
        self._single: _Single | None = None
        if len(outputs[0].shape) == 1 and self._session.get_providers() == ["CPUExecutionProvider"]:
            self._single = _Single(self._session, self._input, self._outputs[0], inputs)

    @property
    def name(self) -> str:
        return "onnx"

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU does what it can of the work."""
        return "CUDAExecutionProvider" in self._session.get_providers()

    def score(self, matrix: Matrix) -> Matrix:
        """Probabilities (rows,), float32, of a C-contiguous matrix (rows, inputs). Raises ModelFailed."""
        if not len(matrix):
            return np.empty(0, np.float32)
        try:
            if self._single is not None and len(matrix) == 1:
                return self._single.score(matrix)
            (out,) = self._session.run(self._outputs, {self._input: matrix})
        except Exception as error:  # as above
            raise ModelFailed(
                f"ONNX Runtime failed: {str(error)[:300]}", where=self._where, mend="see the record's values"
            ) from error
        scores: Matrix = out.reshape(-1)
        return scores


class _Single:
    """One row through buffers that are bound once: 10.0 us where a plain call takes 11.1."""

    def __init__(self, session: onnxruntime.InferenceSession, name: str, output: str, inputs: int) -> None:
        self._run = session.run_with_iobinding
        self._row, self._output = np.zeros((1, inputs), np.float32), np.zeros(1, np.float32)
        self._binding = session.io_binding()
        self._kept = [onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in (self._row, self._output)]
        self._binding.bind_ortvalue_input(name, self._kept[0])
        self._binding.bind_ortvalue_output(output, self._kept[1])

    def score(self, matrix: Matrix) -> Matrix:
        self._row[:] = matrix
        self._run(self._binding)
        return self._output.copy()
