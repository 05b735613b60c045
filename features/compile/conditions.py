"""Filter expressions and constants to SQL: the same text in Flink and in DuckDB, but for quoted names."""

from collections.abc import Callable

from core.errors import DeclarationError
from features.filters import And, Column, Comparison, Condition, In, IsNull, Not, Or, Scalar

Quote = Callable[[str], str]
"""A column name to SQL: an engine's quoting."""


def condition_sql(condition: Condition, quote: Quote) -> str:
    """The condition, safe to combine with others."""
    match condition:
        case Comparison(column, operator, Column(other)):
            return f"{quote(column)} {operator} {quote(other)}"
        case Comparison(column, operator, str() | int() | float() as value):
            return f"{quote(column)} {operator} {literal(value)}"
        case In(column, values):
            return f"{quote(column)} IN ({', '.join(map(literal, values))})"
        case IsNull(column):
            return f"{quote(column)} IS NULL"
        case And(left, right):
            return f"({condition_sql(left, quote)} AND {condition_sql(right, quote)})"
        case Or(left, right):
            return f"({condition_sql(left, quote)} OR {condition_sql(right, quote)})"
        case Not(inner):
            return f"NOT ({condition_sql(inner, quote)})"
    raise DeclarationError(f"{condition!r} is no filter", mend="build it with field(...)")


def literal(value: Scalar) -> str:
    """A constant. Floats have an exponent, which makes them doubles: 0.1 would be a decimal."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    text = repr(value)
    return text if isinstance(value, int) or "e" in text else f"{text}e0"
