"""Dedupe: let through the first record per (tenant, id), remembered over a bounded horizon.

The host asks `first(...)` which rows are new, handles them, and calls `remember(...)` once their outcome
cannot get lost any more. A batch that failed in between can therefore be tried again: asking changes nothing.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import DeclarationError

# Between tenant and id; the byte is no part of a key, and an id that holds it still gives one key per pair
# as long as no tenant does, which the gateway's credentials guarantee.
_SEPARATOR = "\x00"


@dataclass(frozen=True)
class Horizon:
    """How long an id is remembered.

    An id is forgotten once it is older than `age` *and* at least `at_least` newer ones are known. The count
    covers repeats that follow an outage, when the clock has moved on and the inputs have not. Never more
    than `at_most` ids are kept (about 200 bytes each), whatever the rate.
    """

    age: timedelta = timedelta(seconds=15)
    at_least: int = 50_000
    at_most: int = 500_000

    def __post_init__(self) -> None:
        if self.age <= timedelta(0) or not 0 <= self.at_least <= self.at_most or self.at_most < 1:
            raise DeclarationError(
                f"dedupe horizon of {self.age}, {self.at_least} to {self.at_most} ids",
                mend="give a positive age and 0 <= at_least <= at_most",
            )

    @property
    def age_ms(self) -> int:
        return self.age // timedelta(milliseconds=1)


def record_keys(batch: pa.RecordBatch) -> list[str]:
    """One key per row from its columns `tenant` and `id`."""
    tenant = batch.column(batch.schema.get_field_index("tenant"))
    identity = batch.column(batch.schema.get_field_index("id"))
    joined = pc.binary_join_element_wise(tenant, identity, _SEPARATOR)
    keys: list[str] = joined.to_numpy(zero_copy_only=False).tolist()  # a fifth of the cost of to_pylist
    return keys


class Dedupe:
    """The ids seen within the horizon. One instance per worker; not safe for use from several threads.

    Promise: of all rows with one (tenant, id) that come within the horizon, `first` lets exactly one through
    between two calls of `remember`. Beyond the horizon a repeat is taken for new.
    """

    def __init__(self, horizon: Horizon | None = None) -> None:
        self.horizon = horizon or Horizon()
        self._seen: set[str] = set()
        self._chunks: deque[tuple[int, list[str]]] = deque()
        self._newest_ms = -(2**62)
        self._asked: tuple[Sequence[str], set[str]] | None = None

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, key: str) -> bool:
        return key in self._seen

    def first(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows (ascending) whose key was not remembered and not met earlier in `keys`."""
        unique = set(keys)
        if len(unique) == len(keys) and self._seen.isdisjoint(unique):
            self._asked = (keys, unique)
            return np.arange(len(keys), dtype=np.int64)
        met: set[str] = set()
        rows = []
        for row, key in enumerate(keys):
            if key not in self._seen and key not in met:
                met.add(key)
                rows.append(row)
        return np.array(rows, dtype=np.int64)

    def remember(self, keys: Sequence[str], at_ms: int) -> None:
        """Take `keys` for seen at `at_ms` (milliseconds, the inputs' clock); forget what is too old."""
        asked, self._asked = self._asked, None
        if asked is not None and asked[0] is keys:
            # nothing was remembered since `first` found them all new: no key is looked up again
            self._seen |= asked[1]
            self._chunks.append((at_ms, list(keys)))
        elif new := [key for key in dict.fromkeys(keys) if key not in self._seen]:
            self._seen.update(new)
            self._chunks.append((at_ms, new))
        self._newest_ms = max(self._newest_ms, at_ms)
        self._forget()

    def clear(self) -> None:
        self._seen.clear()
        self._chunks.clear()
        self._newest_ms = -(2**62)

    def _forget(self) -> None:
        limit = self._newest_ms - self.horizon.age_ms
        while self._chunks:
            at_ms, keys = self._chunks[0]
            excess = len(self._seen) - self.horizon.at_most
            if excess > 0 and excess < len(keys):
                self._seen.difference_update(keys[:excess])
                self._chunks[0] = (at_ms, keys[excess:])
                return
            aged = at_ms < limit and len(self._seen) - len(keys) >= self.horizon.at_least
            if excess <= 0 and not aged:
                return
            self._seen.difference_update(keys)
            self._chunks.popleft()
