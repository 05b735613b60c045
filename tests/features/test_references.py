"""Reference tables from their topics: the newest row of each key, in any order of keys, deleted or not."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import TooLarge
from features.catalog.merchant_activity import MERCHANT
from features.references import Change, current
from schemas.catalog.purchases import Merchant
from schemas.codec import arrow_schema
from schemas.keys import key_of

CHANGED = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = st.tuples(st.sampled_from(["t", "t|", "%"]), st.sampled_from(["a", "|a", "b%7C"]))


def told(tenant: str, name: str, size: str | None) -> Change:
    """A row, or its deletion."""
    if size is None:
        return key_of(tenant, name), None
    values = {"tenant": tenant, "id": name, "merchant_id": name, "region": "r", "size": size}
    return key_of(tenant, name), values | {"changed_at": CHANGED}


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, st.sampled_from(["small", "large", None])), max_size=30))
def test_the_newest_of_each_key_is_there_once(changes: list[tuple[tuple[str, str], str | None]]) -> None:
    table = current(MERCHANT, [told(*key, size) for key, size in changes])
    newest = {
        key: next(size for other, size in reversed(changes) if other == key)
        for key in {k for k, _ in changes}
    }
    rows = [((row["tenant"], row["merchant_id"]), row["size"]) for row in table.to_pylist()]
    assert len(rows) == len(dict(rows))
    assert dict(rows) == {key: size for key, size in newest.items() if size is not None}
    assert [key_of(*key) for key, _ in rows] == sorted(key_of(*key) for key, _ in rows)


def test_no_rows_have_the_columns_all_the_same() -> None:
    table = current(MERCHANT, [])
    assert table.schema == arrow_schema(Merchant.spec())
    assert table.num_rows == 0


def test_more_rows_than_declared_are_refused() -> None:
    few = replace(MERCHANT, most_rows=2)
    changes = [told("t", "a", "small"), told("t", "a", "large"), told("t", "b", "small")]
    assert current(few, changes).num_rows == 2
    with pytest.raises(TooLarge, match="more than 2 rows"):
        current(few, [*changes, told("u", "a", "small")])
    assert current(few, [*changes, told("t", "b", None), told("u", "a", "small")]).num_rows == 2
