"""Filters: SQL's three values, and constants that come back as they went in whatever is in them."""

import itertools
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DeclarationError
from features.compile.conditions import condition_sql, literal
from features.compile.duckdb_values import quote
from features.compile.flink_columns import quote as flink_quote
from features.filters import Column, Comparison, Condition, columns_of, field
from tests.features.oracle import truth
from tests.features.rides import FILTERS

TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), st.sampled_from("'\"`\\;-$%")
    )
)
FEW = settings(deadline=None, max_examples=50)
COLUMNS = ("x", "y", "z")
VALUES: tuple[Any, ...] = (None, -1, 0, 1, 5)


def ask(query: str, *values: Any) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(query, list(values)).fetchall()


def conditions() -> st.SearchStrategy[Condition]:
    column = st.sampled_from(COLUMNS).map(field)
    number = st.integers(-2, 6)
    leaves = st.one_of(
        st.builds(lambda c, v: c == v, column, number),
        st.builds(lambda c, v: c != v, column, number),
        st.builds(lambda c, v: c < v, column, number),
        st.builds(lambda c, v: c >= v, column, number),
        st.builds(lambda c, d: c <= d, column, column),
        st.builds(lambda c, d: c > d, column, column),
        st.builds(lambda c, v: c.is_in(*v), column, st.lists(number, min_size=1, max_size=3)),
        st.builds(lambda c: c.is_null(), column),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(lambda c: ~c, inner),
            st.builds(lambda c, d: c & d, inner, inner),
            st.builds(lambda c, d: c | d, inner, inner),
        ),
        max_leaves=8,
    )


@FEW
@given(conditions())
def test_duckdb_and_the_oracle_agree_on_true_false_and_unknown(condition: Condition) -> None:
    rows = list(itertools.product(VALUES, repeat=3))
    listed = ", ".join(
        "(" + ", ".join("NULL::BIGINT" if value is None else f"{value}::BIGINT" for value in row) + ")"
        for row in rows[::7]
    )
    found = ask(f"SELECT {condition_sql(condition, quote)}, x, y, z FROM (VALUES {listed}) AS t(x, y, z)")
    for known, *values in found:
        assert known == truth(condition, dict(zip(COLUMNS, values, strict=True))), values


@pytest.mark.parametrize(
    ("left", "right", "both", "either"),
    [
        (True, True, True, True),
        (True, False, False, True),
        (True, None, None, True),
        (False, False, False, False),
        (False, None, False, None),
        (None, None, None, None),
    ],
)
def test_unknown_is_kleene_s(left: Any, right: Any, both: Any, either: Any) -> None:
    x, y = field("x").is_in(True), field("y").is_in(True)
    for a, b in ((left, right), (right, left)):
        for condition, wanted in ((x & y, both), (x | y, either)):
            query = f"SELECT {condition_sql(condition, quote)} FROM (SELECT ?::BOOLEAN AS x, ?::BOOLEAN AS y)"
            assert ask(query, a, b) == [(wanted,)]
            assert truth(condition, {"x": a, "y": b}) is wanted


@FEW
@given(TEXTS)
def test_any_text_comes_back_from_duckdb(text: str) -> None:
    assert ask(f"SELECT {literal(text)}") == [(text,)]
    query = f"SELECT {condition_sql(field('x') == text, quote)} FROM (SELECT ? AS x)"
    assert ask(query, text) == [(True,)]


@given(TEXTS)
def test_in_flink_a_text_is_one_literal_too(text: str) -> None:
    """A standard literal ends at the first quote that is not doubled, and nothing else is special in it."""
    sql = condition_sql(field("x") == text, flink_quote)
    assert sql.startswith("`x` = '")
    inside = sql.removeprefix("`x` = '")
    parts = inside.split("''")
    assert parts[-1].endswith("'")
    assert all("'" not in part for part in parts[:-1])
    assert "'" not in parts[-1][:-1]
    assert "'".join([*parts[:-1], parts[-1][:-1]]) == text


@FEW
@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1)))
def test_any_number_comes_back(number: float) -> None:
    ((found,),) = ask(f"SELECT {literal(number)}")
    assert found == number
    assert isinstance(found, float) == isinstance(number, float)


def test_the_text_of_a_filter_in_flink() -> None:
    condition = ~((field("kind") == "it's") & (field("fare") >= -5)) | field("shared").is_in(True)
    assert condition_sql(condition, flink_quote) == (
        "(NOT ((`kind` = 'it''s' AND `fare` >= -5)) OR `shared` IN (TRUE))"
    )
    assert condition_sql(field("tip") < field("a`b"), flink_quote) == "`tip` < `a``b`"
    assert condition_sql(field("tip") != 0.1, flink_quote) == "`tip` <> 0.1e0"
    assert condition_sql(field("tip").is_null(), flink_quote) == "`tip` IS NULL"


def test_a_comparison_may_have_the_field_on_the_right() -> None:
    assert (5 < field("fare")) == (field("fare") > 5) == Comparison("fare", ">", 5)  # noqa: SIM300
    assert (field("a") < field("b")) == Comparison("a", "<", Column("b"))


def test_equal_filters_are_equal_values() -> None:
    """A view is compared with ==, so the conditions in it have to be."""
    assert (field("a") == 1) == (field("a") == 1)
    assert ((field("a") == 1) == (field("a") == 2)) is False
    assert len({field("a") == 1, field("a") == 1}) == 1


def test_a_filter_has_no_truth_value() -> None:
    with pytest.raises(DeclarationError, match="truth value"):
        bool(field("fare") > 1)
    with pytest.raises(DeclarationError) as error:
        field("a") == 1 and field("b") == 2
    assert error.value.mend
    with pytest.raises(DeclarationError):
        1 < field("a") < 5  # noqa: B015


def test_a_comparison_with_none_or_a_thing_is_refused() -> None:
    with pytest.raises(DeclarationError) as error:
        field("a") == None  # noqa: B015, E711
    assert error.value.mend == "write is_null()"
    with pytest.raises(DeclarationError) as error:
        field("a").is_in(1, None)  # type: ignore[arg-type]
    assert error.value.mend == "write is_null()"
    with pytest.raises(DeclarationError):
        field("a") < object()  # type: ignore[operator]  # noqa: B015


def test_the_columns_of_a_filter_are_all_that_it_reads() -> None:
    assert columns_of(FILTERS[13]) == ("driver_of.rating", "tip")  # type: ignore[arg-type]
    assert columns_of((field("b") == 1) & ~field("a").is_null() | (field("b") > field("c"))) == (
        "b",
        "a",
        "c",
    )
