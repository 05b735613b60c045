"""Records as JSON to the model's matrix, without columns in between; for requests of a few rows.

A record of 119 inputs becomes a row in 15 us; through Arrow columns it would take 200. The fast path decodes
into a type made from the signature; what it refuses is looked at again, whole, to name every wrong input.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from core.errors import Malformed, Rejected
from models.encode import Matrix
from models.signature import Input, Signature

MOST_NAMED = 100
_MOST = float(np.finfo(np.float32).max)


class RowReader:
    """The model's door for records; safe for several threads. A record's keys are the signature's columns."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        fields = [f"input_{at}" for at in range(len(signature.inputs))]
        self._record = msgspec.defstruct(
            "Record",
            [(field, _kind(item)) for field, item in zip(fields, signature.inputs, strict=True)],
            rename=dict(zip(fields, signature.columns, strict=True)),
        )
        self._decode = msgspec.json.Decoder(list[self._record]).decode  # type: ignore[name-defined]
        self._words = [
            (at, {word: float(code) for code, word in enumerate(item.vocabulary)})
            for at, item in enumerate(signature.inputs)
            if item.vocabulary is not None
        ]

    def read(self, records: msgspec.Raw | bytes, *, pointer: str = "") -> Matrix:
        """The matrix (rows, inputs), float32, of a JSON list of records; null is NaN.

        Columns that the model does not read are passed over. Raises Malformed for what is no JSON, and
        Rejected naming every input, below `pointer`, that is missing, of another type, out of float32's
        range, or null where the signature allows none.
        """
        try:
            decoded = self._decode(records)
        except msgspec.ValidationError:
            raise self._wrong(records, pointer) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"no valid JSON: {error}") from None
        rows: list[Sequence[Any]] = [msgspec.structs.astuple(record) for record in decoded]
        if self._words:
            rows = [self._numbered(row) for row in rows]
        with np.errstate(over="ignore"):
            matrix = np.array(rows, np.float32).reshape(len(rows), len(self.signature.inputs))
        if np.isinf(matrix).any():
            raise self._wrong(records, pointer)
        return matrix

    def _numbered(self, row: Sequence[Any]) -> list[Any]:
        numbers = list(row)
        for at, codes in self._words:
            numbers[at] = codes.get(numbers[at])
        return numbers

    def _wrong(self, raw: msgspec.Raw | bytes, pointer: str) -> Rejected | Malformed:
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Malformed(f"no valid JSON: {error}")
        wrong: dict[str, str] = {}
        if not isinstance(value, list):
            wrong[pointer] = "a list of records is needed"
        else:
            for at, record in enumerate(value):
                if not isinstance(record, dict):
                    wrong[f"{pointer}/{at}"] = "an object is needed"
                else:
                    self._look(record, f"{pointer}/{at}", wrong)
                if len(wrong) >= MOST_NAMED:
                    break
        return Rejected(
            f"{len(wrong)} inputs are wrong", fields=wrong, mend="send every input that the signature names"
        )

    def _look(self, record: Mapping[str, object], pointer: str, wrong: dict[str, str]) -> None:
        for item in self.signature.inputs:
            reason = "missing" if item.column not in record else why_not(item, record[item.column])
            if reason is not None and len(wrong) < MOST_NAMED:
                wrong[f"{pointer}/{_escaped(item.column)}"] = reason


def why_not(item: Input, value: object) -> str | None:
    """Why `value` cannot be this input; None where it can."""
    if value is None:
        return None if item.nullable else "null, and a value is needed"
    if item.vocabulary is not None:
        return None if isinstance(value, str) else "text is needed"
    if not isinstance(value, int | float):
        return "a number is needed"
    return None if abs(value) <= _MOST else "beyond the range of float32"


def _kind(item: Input) -> Any:
    kind: Any = str if item.vocabulary is not None else float | bool
    return kind | None if item.nullable else kind


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
