"""The stage that judges the examples before anything is learned from them."""

from typing import Any

from jobs.training.expectations import LEAST_ROWS, TYPES, Expected, configured
from jobs.training.forecasting.examples import AT, KNOWN, NAIVE, SERIES, TARGET
from jobs.training.forecasting.extract import forecast_of, view_of
from jobs.training.validate import checked
from jobs.training.workspace import Workspace


def validate(space: Workspace) -> dict[str, Any]:
    """As `jobs.training.validate.validate`: examples differ in series, origin and horizon and grow in time,
    targets are counts, the scale is above 0; and what is configured."""
    forecast, view = forecast_of(space), view_of(space)
    expected = [
        Expected("expect_table_row_count_to_be_between", {"min_value": LEAST_ROWS}, "training"),
        Expected(
            "expect_compound_columns_to_be_unique",
            {"column_list": ["tenant", SERIES, AT, "horizon"]},
            view.where,
        ),
        Expected("expect_column_values_to_be_increasing", {"column": AT}, view.where),
        Expected(
            "expect_column_values_to_be_between",
            {"column": forecast.scale, "min_value": 0, "strict_min": True},
            "forecast.scale",
        ),
        *(Expected(TYPES["present"], {"column": name}, "forecast") for name in (TARGET, NAIVE, KNOWN)),
        *(
            Expected(TYPES["between"], {"column": name, "min_value": 0}, "forecast")
            for name in (TARGET, NAIVE)
        ),
    ]
    return checked(space, [*expected, *configured(space.configuration)])
