"""The gate: below the bound, and below the seasonal naive error; of the horizons it is about."""

from typing import Any

import pytest

from jobs.training.forecasting.gate import below


def horizon(ours: float | None, naive: float | None, *, gate: bool = True) -> dict[str, Any]:
    return {"gate": gate, "lightgbm": {"mape": ours}, "seasonal_naive": {"mape": naive}}


@pytest.mark.parametrize(
    ("horizons", "reasons"),
    [
        ({"week": horizon(0.149, 0.2)}, []),
        ({"week": horizon(0.15, 0.2)}, ["not below 15.0%"]),
        ({"week": horizon(0.10, 0.10)}, ["not better than the seasonal naive one"]),
        ({"week": horizon(0.3, 0.2)}, ["not below 15.0%", "not better"]),
        ({"week": horizon(0.1, 0.2), "day": horizon(0.3, 0.2)}, ["day: MAPE", "day: MAPE"]),
        ({"week": horizon(0.1, 0.2), "day": horizon(0.3, 0.2, gate=False)}, []),
        ({"week": horizon(None, None)}, ["every actual value is 0"]),
    ],
)
def test_reasons(horizons: dict[str, dict[str, Any]], reasons: list[str]) -> None:
    found = below(horizons, "lightgbm", 0.15)
    assert len(found) == len(reasons)
    for got, wanted in zip(found, reasons, strict=True):
        assert wanted in got
