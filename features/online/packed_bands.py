"""What the age of a packed value says of its features.

Statuses change with age at a few spans only: the times to live and `fresh_for`. Between two of them lies a
band, in which they are known beforehand.
"""

from bisect import bisect_left

from features.online.packed import PackedField, PackedLayout, Value
from features.online.status import Status


class AgeBands:
    """The bands of one layout, by number, the youngest first. The last is that of what is missing."""

    def __init__(self, layout: PackedLayout) -> None:
        spans = {layout.field_ttl_ms(field) for field in layout.fields}
        if layout.fresh_ms is not None:
            spans.add(layout.fresh_ms)
        self._spans = sorted(spans)
        missing: dict[str, Status] = dict.fromkeys(layout.names, "missing")
        self.statuses: list[dict[str, Status]] = [
            {field.name: _status(layout, field, age) for field in layout.fields}
            for age in (*self._spans, self._spans[-1] + 1)
        ]
        """Per band the statuses by feature, in the order of the layout."""
        self.statuses.append(missing)
        self.empty: list[dict[str, Value]] = [
            {field.name: field.empty for field in layout.fields if band[field.name] in ("expired", "missing")}
            for band in self.statuses
        ]
        """Per band the features that read as their empty value, with it; from band to band they only grow."""
        self.missing = len(self.statuses) - 1

    def of(self, age_ms: int) -> int:
        """How many of the spans are shorter than the age."""
        return bisect_left(self._spans, age_ms)


def _status(layout: PackedLayout, field: PackedField, age_ms: int) -> Status:
    if age_ms > layout.field_ttl_ms(field):
        return "expired"
    return "stale" if layout.fresh_ms is not None and age_ms > layout.fresh_ms else "fresh"
