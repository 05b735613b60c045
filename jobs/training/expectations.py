"""What training data must fulfil: out of the record, the views and the configuration, as plain data.

`jobs.training.suite` has Great Expectations check it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from features.view import FeatureView
from pipelines.training.configuration import Configuration, Expectation
from schemas.record import RecordSpec

TYPES = {
    "present": "expect_column_values_to_not_be_null",
    "between": "expect_column_values_to_be_between",
    "one_of": "expect_column_values_to_be_in_set",
    "unique": "expect_column_values_to_be_unique",
    "matches": "expect_column_values_to_match_regex",
}
LEAST_ROWS = 100


@dataclass(frozen=True)
class Expected:
    """One expectation: its type as Great Expectations names it, its arguments, and where it comes from."""

    type: str
    arguments: dict[str, Any]
    origin: str

    @property
    def column(self) -> str | None:
        return self.arguments.get("column")


def expected_of(
    configuration: Configuration, spec: RecordSpec, views: tuple[FeatureView, ...]
) -> list[Expected]:
    """From the record: fields that are not nullable are there, ids differ, times grow. From the views: a
    feature with a value when empty always has one. Of the label: 0 or 1. And what is configured."""
    return [
        Expected("expect_table_row_count_to_be_between", {"min_value": LEAST_ROWS}, "training"),
        *_of_record(spec),
        *_of_views(views),
        Expected(TYPES["present"], {"column": configuration.target.column}, "target"),
        Expected(TYPES["one_of"], {"column": configuration.target.column, "value_set": [0, 1]}, "target"),
        *configured(configuration),
    ]


def configured(configuration: Configuration) -> list[Expected]:
    """What the configuration expects."""
    return [_configured(one, number) for number, one in enumerate(configuration.expectations)]


def _of_record(spec: RecordSpec) -> Iterator[Expected]:
    origin = f"record {spec.full_name}"
    for field in spec.fields:
        if not field.nullable and field.kind not in ("array", "map", "struct"):
            yield Expected(TYPES["present"], {"column": field.name}, origin)
    yield Expected("expect_compound_columns_to_be_unique", {"column_list": ["tenant", "id"]}, origin)
    if spec.time is not None:
        yield Expected("expect_column_values_to_be_increasing", {"column": spec.time}, origin)


def _of_views(views: tuple[FeatureView, ...]) -> Iterator[Expected]:
    for view in views:
        for feature in view.features:
            if feature.empty is not None:
                yield Expected(TYPES["present"], {"column": feature.name}, view.where)


def _configured(one: Expectation, number: int) -> Expected:
    given: dict[str, Any] = {"column": one.column}
    if one.kind == "between":
        given |= {"min_value": one.low, "max_value": one.high}
    elif one.kind == "one_of":
        given |= {"value_set": list(one.values)}
    elif one.kind == "matches":
        given |= {"regex": one.pattern}
    if one.share < 1.0:
        given |= {"mostly": one.share}
    return Expected(TYPES[one.kind], given, f"expectations[{number}]")
