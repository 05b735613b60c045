"""Keys: different tenants and entities never share one, and SQL makes the same ones."""

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.keys import entity_of, entity_sql, key_of, key_sql, split_entity, split_key

PARTS = st.lists(
    st.text(st.one_of(st.sampled_from("|%257C"), st.characters(exclude_categories=["Cs"])), max_size=6),
    min_size=1,
    max_size=3,
)


@given(PARTS, st.text(st.sampled_from("t|%7C5"), max_size=4))
def test_a_key_gives_back_what_it_was_made_of(parts: list[str], tenant: str) -> None:
    entity = entity_of(parts)
    assert split_entity(entity, len(parts)) == tuple(parts)
    assert split_key(key_of(tenant, entity)) == (tenant, entity)


@given(PARTS, PARTS)
def test_different_values_have_different_entities(one: list[str], other: list[str]) -> None:
    if len(one) == len(other) and one != other:
        assert entity_of(one) != entity_of(other)


def test_one_field_is_the_entity_as_it_is() -> None:
    assert entity_of(["a|b%"]) == "a|b%"
    assert entity_of(["a|b%", "c"]) == "a%7Cb%25|c"


def test_an_entity_of_other_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="2 fields"):
        split_entity("a|b|c", 2)


@settings(deadline=None, max_examples=50)
@given(PARTS)
def test_sql_makes_the_same_key(parts: list[str]) -> None:
    if any("\0" in part for part in parts):
        return
    names = [f"p{number}" for number in range(len(parts))]
    given_ = ", ".join(f"? AS {name}" for name in names)
    query = f"SELECT {entity_sql(names)}, {key_sql(names[0], entity_sql(names))} FROM (SELECT {given_})"
    with duckdb.connect() as connection:
        entity, key = connection.execute(query, parts).fetchone()  # type: ignore[misc]
    assert entity == entity_of(parts)
    assert key == key_of(parts[0], entity_of(parts))
