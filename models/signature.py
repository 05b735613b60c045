"""The signature of a model: its ordered inputs and its output, as data beside the model file.

An input names the column it is read from. A text column has a vocabulary: the value's position in it is the
model's number; null and values that are not in it are NaN.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from core.errors import ModelRefused
from core.ids import digest
from core.structs import ready

MAX_INPUTS = 10_000
MAX_VOCABULARY = 100_000
PROBABILITY = "probability"


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input of the matrix. `nullable`: whether NaN is allowed in it."""

    name: str
    column: str
    dtype: Literal["float32"] = "float32"
    nullable: bool = True
    vocabulary: tuple[str, ...] | None = None


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The output: `shape` (-1 is the number of rows), values from `low` to `high`, both included, in `unit`:
    a probability, or what a quantity counts."""

    name: str
    dtype: Literal["float32"] = "float32"
    shape: tuple[int, ...] = (-1,)
    low: float = 0.0
    high: float = 1.0
    unit: str = PROBABILITY


@ready
class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs in the order of the matrix (rows, inputs), and the output."""

    inputs: tuple[Input, ...]
    output: Output

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to be read, in the order of the matrix."""
        return tuple(item.column for item in self.inputs)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex over names, order, types and vocabularies of the inputs. Who sends a matrix without
        names says with it which order it has."""
        return digest(msgspec.json.encode(self.inputs))

    def check(self, *, where: str) -> None:
        """Raises ModelRefused when the signature contradicts itself or is out of bounds."""
        if not 1 <= len(self.inputs) <= MAX_INPUTS:
            raise _refused(f"{len(self.inputs)} inputs; 1 to {MAX_INPUTS} are possible", where)
        for kind, names in (("input", (i.name for i in self.inputs)), ("column", self.columns)):
            twice = _first_repeat(names)
            if twice is not None:
                raise _refused(f"{kind} {twice!r} is there twice", where)
        for item in self.inputs:
            words = item.vocabulary
            if words is None:
                continue
            if not 1 <= len(words) <= MAX_VOCABULARY:
                raise _refused(f"input {item.name!r} has {len(words)} words", where)
            twice = _first_repeat(words)
            if twice is not None:
                raise _refused(f"input {item.name!r} has the word {twice!r} twice", where)
        if self.output.shape != (-1,):
            raise _refused(f"output of shape {self.output.shape}; one number a row is (-1,)", where)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def parse(data: bytes, *, where: str) -> Signature:
    """A checked signature from its JSON; raises ModelRefused."""
    try:
        signature = msgspec.json.decode(data, type=Signature)
    except msgspec.DecodeError as error:
        raise _refused(f"the signature cannot be read: {error}", where) from error
    signature.check(where=where)
    return signature


def _first_repeat(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _refused(what: str, where: str) -> ModelRefused:
    return ModelRefused(what, where=where, mend="train and publish the model again")
