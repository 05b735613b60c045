"""The Open Inference Protocol (v2) and a model's matrix; its binary data is in `binary`.

A model is offered as one tensor `inputs` of shape [rows, inputs], in the order of its signature; `null` is a
missing value. Instead, every input may come as a tensor of its own, named by its column, of shape [rows] or
[rows, 1]. What is wrong is named, all of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from core.errors import Malformed, Rejected
from jobs.serving import binary
from models.encode import Matrix
from models.rows import why_not
from models.signature import Signature

MATRIX = "inputs"
FINGERPRINT = "schema_fingerprint"
TENANT, UNIT = "tenant", "assignment_unit"
_NUMBERS = frozenset(
    ("FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL")
)
_NOTHING = msgspec.Raw()
_NOT_SERVED = frozenset(("classification", "shared_memory_region"))
_flat = msgspec.json.Decoder(list[float | bool | None]).decode
_nested = msgspec.json.Decoder(list[list[float | bool | None]]).decode
_anything = msgspec.json.Decoder().decode


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input of a request; `data` is decoded when the name and the type are known."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = _NOTHING
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True)
class Input:
    """A tensor and its bytes, where they came behind the JSON."""

    tensor: Tensor
    binary: memoryview | None

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def shape(self) -> list[int]:
        return self.tensor.shape

    @property
    def datatype(self) -> str:
        return self.tensor.datatype


class InferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request. `outputs` are those wanted, all by default."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Inference:
    """A request with all of its inputs."""

    request: InferRequest
    inputs: tuple[Input, ...]


class OutputTensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """`data`, or the bytes behind the JSON of which `parameters` states the size."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | None = None


class InferResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None


_request = msgspec.json.Decoder(InferRequest).decode


def parse(body: bytes, json_bytes: str | None = None) -> Inference:
    """`json_bytes` is the value of `binary.HEADER`, where tensors are behind the JSON. Raises Malformed for
    what is no JSON, Rejected for what is no request of the protocol."""
    text, rest = binary.split(body, json_bytes)
    request: InferRequest = decoded(_request, text, "no inference request of protocol v2")
    inputs = []
    for tensor, share in zip(request.inputs, binary.shares(request.inputs, rest), strict=True):
        if (share is None) == (not len(bytes(tensor.data))):
            raise _wrong({f"/inputs/{tensor.name}/data": "values are needed once, in the JSON or behind it"})
        inputs.append(Input(tensor, share))
    return Inference(request, tuple(inputs))


def output_of(inference: Inference, name: str, scores: Matrix) -> tuple[OutputTensor, bytes]:
    """The scores as an output, and its bytes behind the JSON, where they are wanted so."""
    request = inference.request
    wanted = bool((request.parameters or {}).get(binary.OUTPUTS))
    for output in request.outputs or ():
        given = output.get("parameters")
        wanted = bool(given.get(binary.OUTPUT, wanted)) if isinstance(given, dict) else wanted
    if not wanted:
        return OutputTensor(name, [len(scores)], "FP32", scores.tolist()), b""
    data = scores.astype("<f4", copy=False).tobytes()
    return OutputTensor(name, [len(scores)], "FP32", parameters={binary.SIZE: len(data)}), data


def decoded(decode: Any, body: bytes, what: str) -> Any:
    """`body` as what `decode` gives. Raises Malformed for what is no JSON, Rejected (`what`) for the rest."""
    try:
        try:
            return decode(body)
        except msgspec.ValidationError as error:
            _anything(body)  # the type is looked at before the end of the text
            raise Rejected(what, fields={"": str(error)}) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"no valid JSON: {error}") from None


def matrix_of(inference: Inference, signature: Signature) -> Matrix:
    """The matrix (rows, inputs), float32; raises Rejected, and Malformed for damaged data."""
    request, inputs = inference.request, inference.inputs
    check_fingerprint(request.parameters, signature)
    for output in request.outputs or ():
        if output.get("name") != signature.output.name:
            raise _wrong({"/outputs": f"the only output is {signature.output.name!r}"})
        given = output.get("parameters")
        if isinstance(given, dict) and given.keys() & _NOT_SERVED:
            raise _wrong({"/outputs": f"there is no {', '.join(sorted(given.keys() & _NOT_SERVED))} here"})
    if len(inputs) == 1 and inputs[0].name == MATRIX:
        return _whole(inputs[0], signature)
    return _by_column(inputs, signature)


def check_fingerprint(parameters: Mapping[str, Any] | None, signature: Signature) -> None:
    """Raises Rejected where the sender's order of inputs is stated and another than the model's."""
    given = (parameters or {}).get(FINGERPRINT)
    if given is not None and given != signature.fingerprint:
        raise _wrong({f"/parameters/{FINGERPRINT}": f"the model has {signature.fingerprint}"})


def unit_of(request: InferRequest, tenant_given: str | None = None) -> tuple[str, str | None]:
    """Tenant and assignment unit, by the request's parameters or else its id; `tenant_given` is what somebody
    says who knows the tenant better. Raises Rejected."""
    given = dict(request.parameters or {})
    if tenant_given is not None:
        given[TENANT] = tenant_given
    tenant, unit = given.get(TENANT, ""), given.get(UNIT, request.id)
    wrong = {
        f"/parameters/{name}": "text is needed"
        for name, value in ((TENANT, tenant), (UNIT, unit or ""))
        if not isinstance(value, str)
    }
    if wrong:
        raise _wrong(wrong)
    return tenant, unit


def metadata(name: str, versions: Sequence[str], signature: Signature) -> dict[str, Any]:
    """The answer to `GET /v2/models/NAME`."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": "onnx_onnxv1",
        "inputs": [{"name": MATRIX, "datatype": "FP32", "shape": [-1, len(signature.inputs)]}],
        "outputs": [{"name": signature.output.name, "datatype": "FP32", "shape": [-1]}],
        "parameters": {FINGERPRINT: signature.fingerprint, "columns": list(signature.columns)},
    }


def _whole(tensor: Input, signature: Signature) -> Matrix:
    width = len(signature.inputs)
    rows = tensor.shape[0] if tensor.shape else -1
    if tensor.shape != [rows, width] or rows < 0:
        raise _wrong({f"/inputs/{MATRIX}/shape": f"{tensor.shape}, and [rows, {width}] is needed"})
    values = _values(tensor)
    if values.size != rows * width:
        raise _wrong({f"/inputs/{MATRIX}/data": f"{values.size} values for the shape {tensor.shape}"})
    matrix: Matrix = values.reshape(rows, width)
    wrong: dict[str, str] = {}
    for at, item in enumerate(signature.inputs):
        column = matrix[:, at]
        if not item.nullable and np.isnan(column).any():
            wrong[f"/inputs/{item.column}"] = "null, and a value is needed"
        elif item.vocabulary is not None:
            known = np.isnan(column) | ((column >= 0) & (column < len(item.vocabulary)) & (column % 1 == 0))
            if not known.all():
                wrong[f"/inputs/{item.column}"] = "no position in the input's vocabulary"
    if np.isinf(matrix).any():
        columns = np.flatnonzero(np.isinf(matrix).any(axis=0))
        wrong |= {f"/inputs/{signature.inputs[at].column}": "beyond the range of float32" for at in columns}
    if wrong:
        raise _wrong(wrong)
    return matrix


def _by_column(tensors: Sequence[Input], signature: Signature) -> Matrix:
    given = {tensor.name: tensor for tensor in tensors}
    wrong = {f"/inputs/{name}": "no input of the model" for name in given if name not in signature.columns}
    wrong |= {f"/inputs/{name}": "missing" for name in signature.columns if name not in given}
    if len(given) != len(tensors):
        wrong["/inputs"] = "an input is there twice"
    rows = {math.prod(tensor.shape) for tensor in tensors}
    if len(rows) != 1:
        wrong["/inputs"] = f"inputs of {len(rows)} different lengths"
    if wrong:
        raise _wrong(wrong)
    count = rows.pop()
    columns: list[Matrix] = []
    for item in signature.inputs:
        tensor = given[item.column]
        where = f"/inputs/{item.column}"
        if tensor.shape not in ([count], [count, 1]):
            wrong[where] = f"shape {tensor.shape}, and [rows] or [rows, 1] is needed"
            continue
        if item.vocabulary is None:
            column = _values(tensor)
            if column.size != count:
                wrong[where] = f"{column.size} values for the shape {tensor.shape}"
            elif np.isinf(column).any():
                wrong[where] = "beyond the range of float32"
            elif not item.nullable and np.isnan(column).any():
                wrong[where] = "null, and a value is needed"
            else:
                columns.append(column.reshape(-1))
            continue
        words = _words(tensor, count)
        reasons = [reason for word in words if (reason := why_not(item, word)) is not None]
        if tensor.datatype != "BYTES" or len(words) != count or reasons:
            wrong[where] = reasons[0] if reasons else f"{count} texts of type BYTES are needed"
            continue
        codes = {word: float(code) for code, word in enumerate(item.vocabulary)}
        columns.append(np.array([codes.get(word) for word in words], np.float32))
    if wrong:
        raise _wrong(wrong)
    return np.stack(columns, axis=1)


def _values(tensor: Input) -> Matrix:
    if tensor.datatype not in _NUMBERS:
        raise _wrong({f"/inputs/{tensor.name}/datatype": f"{tensor.datatype!r} is no type of numbers"})
    if tensor.binary is not None:
        return binary.numbers(tensor.name, tensor.datatype, tensor.binary)
    nested = bytes(tensor.tensor.data).lstrip()[1:].lstrip().startswith(b"[")
    data = _data(tensor, _nested if nested else _flat)
    try:
        with np.errstate(over="ignore"):
            values: Matrix = np.array(data, np.float32)
    except ValueError:
        raise _wrong({f"/inputs/{tensor.name}/data": "rows of different lengths"}) from None
    return values


def _words(tensor: Input, most: int) -> list[Any]:
    if tensor.binary is None:
        return _data(tensor, _anything)
    return list(binary.texts(tensor.name, tensor.binary, most)) if tensor.datatype == "BYTES" else []


def _data(tensor: Input, decode: Any) -> list[Any]:
    try:
        found = decode(tensor.tensor.data)
    except msgspec.ValidationError as error:
        raise _wrong({f"/inputs/{tensor.name}/data": str(error)}) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"no valid JSON: {error}") from None
    if not isinstance(found, list):
        raise _wrong({f"/inputs/{tensor.name}/data": "a list is needed"})
    return found


def _wrong(fields: dict[str, str]) -> Rejected:
    named = "; ".join(f"{pointer}: {reason}" for pointer, reason in list(fields.items())[:10])
    return Rejected(
        f"the inputs do not fit the model: {named}", fields=fields, mend="see GET /v2/models/NAME"
    )
