"""Damaged models: one change each to a good ONNX file, from a flipped bit to another model in its place."""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import onnx

from models.store import BOOSTER, GOLDEN, MODEL, SIGNATURE
from tests.models import made

Mutant = tuple[str, bytes]
_FLIPS, _CUTS, _NODES = 110, 40, 12


def mutants(files: dict[str, bytes]) -> list[Mutant]:
    """Name and bytes of each; every one differs from the model."""
    model = files[MODEL]
    every = [*_flipped(model), *_cut(model), *_changed(model), *_swapped(files)]
    return [(name, data) for name, data in every if data != model]


def _flipped(model: bytes) -> Iterator[Mutant]:
    random = np.random.default_rng(7)
    for at in sorted(random.choice(len(model), _FLIPS, replace=False)):
        bit = int(random.integers(8))
        data = bytearray(model)
        data[at] ^= 1 << bit
        yield f"flip {at}.{bit}", bytes(data)


def _cut(model: bytes) -> Iterator[Mutant]:
    for at in np.linspace(1, len(model) - 1, _CUTS).astype(int):
        yield f"cut {at}", model[:at]
    for at in (0, 17, len(model) // 2):
        yield f"hole {at}", model[:at] + model[at + 64 :]
    yield "tail", model + b"\0" * 16
    yield "twice", model + model


def _changed(model: bytes) -> Iterator[Mutant]:
    """Valid ONNX that computes something else."""
    random = np.random.default_rng(11)
    trees = onnx.load_model_from_string(model).graph.node[0]
    splits = [at for at, mode in enumerate(_values(trees, "nodes_modes")) if mode != b"LEAF"]
    leaves = range(len(_values(trees, "target_weights")))

    def each(attribute: str, places: Any, change: Callable[[Any], Any]) -> Iterator[Mutant]:
        count = min(_NODES, len(places))
        for at in sorted(random.choice(list(places), count, replace=False)):
            parsed = onnx.load_model_from_string(model)
            held = _values(parsed.graph.node[0], attribute)
            held[at] = change(held[at])
            yield f"{attribute}[{at}]", parsed.SerializeToString()

    yield from each("nodes_values", splits, lambda value: value * 1.5 + 3)
    yield from each("nodes_featureids", splits, lambda value: (value + 1) % 4)
    yield from each("nodes_missing_value_tracks_true", splits, lambda value: 1 - value)
    yield from each("target_weights", leaves, lambda value: value + 0.05)
    for name, attribute in (("truenodeids", "falsenodeids"), ("falsenodeids", "truenodeids")):
        parsed = onnx.load_model_from_string(model)
        node = parsed.graph.node[0]
        first, second = _values(node, f"nodes_{name}"), _values(node, f"nodes_{attribute}")
        kept = list(first)
        first[splits[0]], second[splits[0]] = second[splits[0]], kept[splits[0]]
        if name == "truenodeids":
            yield "branches swapped", parsed.SerializeToString()
        first[splits[0]] = splits[0]
        yield f"a loop in {name}", parsed.SerializeToString()
    for name, edit in _EDITS.items():
        parsed = onnx.load_model_from_string(model)
        edit(parsed)
        yield name, parsed.SerializeToString()


def _values(node: Any, name: str) -> Any:
    (found,) = (attribute for attribute in node.attribute if attribute.name == name)
    return next(held for held in (found.ints, found.floats, found.strings) if len(held))


def _set_base(parsed: Any) -> None:
    _values(parsed.graph.node[0], "base_values")[0] += 0.3


def _all_modes(parsed: Any) -> None:
    held = _values(parsed.graph.node[0], "nodes_modes")
    for at, mode in enumerate(held):
        held[at] = mode.replace(b"BRANCH_LT", b"BRANCH_GTE")


def _aggregate(parsed: Any) -> None:
    (found,) = (a for a in parsed.graph.node[0].attribute if a.name == "aggregate_function")
    found.s = b"MAX"


def _without(at: int) -> Callable[[Any], None]:
    def edit(parsed: Any) -> None:
        del parsed.graph.node[at]

    return edit


def _renamed(parsed: Any) -> None:
    parsed.graph.output[0].name = "other"


def _wider(parsed: Any) -> None:
    parsed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


def _double(parsed: Any) -> None:
    parsed.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def _tanh(parsed: Any) -> None:
    parsed.graph.node[1].op_type = "Tanh"


def _unknown(parsed: Any) -> None:
    parsed.graph.node[1].op_type = "Exfiltrate"


def _opset(parsed: Any) -> None:
    parsed.opset_import[0].version = 999


def _rows(parsed: Any) -> None:
    parsed.graph.initializer[0].int64_data[:] = [1]


def _second_output(parsed: Any) -> None:
    parsed.graph.output.append(
        onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [None, 1])
    )


def _outside(parsed: Any) -> None:
    tensor = parsed.graph.initializer[0]
    tensor.ClearField("int64_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/hostname"


_EDITS: dict[str, Callable[[Any], None]] = {
    "another base": _set_base,
    "branches the other way": _all_modes,
    "the largest tree instead of the sum": _aggregate,
    "no trees": _without(0),
    "no sigmoid": _without(1),
    "no reshape": _without(2),
    "another output": _renamed,
    "another width": _wider,
    "doubles": _double,
    "tanh": _tanh,
    "an operator nobody has": _unknown,
    "an operator set to come": _opset,
    "one row": _rows,
    "two outputs": _second_output,
    "data outside the file": _outside,
}


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('a pickle was loaded')",))


def _swapped(files: dict[str, bytes]) -> Iterator[Mutant]:
    zipped = BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Payload()))
    for seed in range(3, 9):
        yield f"the model of seed {seed}", made.files(made.booster(seed=seed))[MODEL]
    yield "the booster", files[BOOSTER]
    yield "the signature", files[SIGNATURE]
    yield "the golden rows", files[GOLDEN]
    for protocol in range(6):
        yield f"a pickle of protocol {protocol}", pickle.dumps(_Payload(), protocol)
    yield "a pickle in a zip", zipped.getvalue()
    yield "nothing", b""
    yield "text", b"model"
    yield "zeros", bytes(len(files[MODEL]))
