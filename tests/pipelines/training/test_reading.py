"""A training configuration is refused before any work, at every wrong place, with what would be right."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput, Rejected, UnknownName
from pipelines.training.cron import Cron
from pipelines.training.reading import (
    changed,
    configurations,
    parse,
    read,
    shipped,
    shipped_names,
    shipped_values,
    values_of,
)

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"serch": {}}, "/serch", "did you mean 'search'?"),
    ({"search": {"trails": 3}}, "/search/trails", "did you mean 'trials'?"),
    ({"search": {"space": {"deph": {"low": 1, "high": 2}}}}, "/search/space/deph", "did you mean 'depth'?"),
    ({"search": {"space": {"depth": {"low": 1, "hihg": 2}}}}, "/search/space/depth/hihg", "'high'"),
    ({"search": {"space": {"depth": {"low": 9, "high": 4}}}}, "/search/space/depth", "empty range"),
    ({"search": {"space": {"depth": {"low": 4, "high": 4}}}}, "/search/space/depth", "empty range"),
    ({"search": {"space": {"depth": {"low": 2.5, "high": 4}}}}, "/search/space/depth", "whole numbers"),
    ({"search": {"space": {"depth": {"low": 2, "high": 99}}}}, "/search/space/depth", "<= 16"),
    (
        {"search": {"space": {"learning_rate": {"low": 0, "high": 1, "log": True}}}},
        "/search/space/learning_rate",
        "above 0",
    ),
    ({"search": {"trials": -1}}, "/search/trials", ">= 0"),
    ({"search": {"trials": "many"}}, "/search/trials", "got `str`"),
    ({"search": {"engines": []}}, "/search/engines", "at least one"),
    ({"target": {"classes": ["fraud"]}}, "/target/classes", "two different classes"),
    ({"target": {"classes": ["fraud", "fraud"]}}, "/target/classes", "two different classes"),
    ({"schedule": "0 25 * * 0"}, "/schedule", "no hour"),
    ({"schedule": "0 0 30 2 *"}, "/schedule", "never comes due"),
    ({"pipeline": "frud"}, "/pipeline", "did you mean 'fraud'?"),
    ({"pipeline": "demand"}, "/pipeline", "scores nothing"),
    ({"views": ["card_activty"]}, "/views/0", "did you mean 'card_activity'?"),
    ({"views": ["merchant_sales"]}, "/views/0", "no rolling view"),
    ({"split": {"validation_share": 1.0}}, "/split/validation_share", "< 1.0"),
    ({"history_days": 0}, "/history_days", ">= 1"),
    ({"source": {"kind": "sorcery"}}, "/source/kind", "Invalid enum value"),
    ({"notifications": {"webhook": "file:///etc/passwd"}}, "/notifications/webhook", "http"),
    (
        {"expectations": [{"column": "amount_cent", "kind": "present"}]},
        "/expectations/0/column",
        "amount_cents",
    ),
    ({"expectations": [{"column": "amount_cents", "kind": "between"}]}, "/expectations/0", "`low`, `high`"),
    (
        {"expectations": [{"column": "amount_cents", "kind": "between", "low": 2, "high": 1}]},
        "/expectations/0",
        "empty range",
    ),
    (
        {"expectations": [{"column": "product", "kind": "matches", "pattern": "("}]},
        "/expectations/0/pattern",
        "no reg",
    ),
    (
        {"expectations": [{"column": "product", "kind": "matches", "pattern": "(" * 5_000}]},
        "/expectations/0/pattern",
        "no reg",
    ),
    (
        {"expectations": [{"column": "product", "kind": "matches", "pattern": "a{99999999999}"}]},
        "/expectations/0/pattern",
        "no reg",
    ),
]


HORIZON = {"name": "week", "steps": 7}
WRONG_FORECASTS: list[tuple[dict[str, Any], str, str]] = [
    ({"forecast": {"scale": "bookings"}}, "/forecast/scale", "no moving average"),
    ({"forecast": {"horizons": []}}, "/forecast/horizons", "about one at least"),
    ({"forecast": {"horizons": [HORIZON | {"gate": False}]}}, "/forecast/horizons", "about one at least"),
    ({"forecast": {"horizons": [HORIZON, HORIZON]}}, "/forecast/horizons", "names one twice"),
    ({"forecast": {"horizons": [HORIZON | {"lead": 15}]}}, "/forecast/horizons/0", "22 windows after"),
    ({"forecast": {"horizons": [HORIZON | {"steps": 0}]}}, "/forecast/horizons/0/steps", ">= 1"),
    ({"forecast": {"prophets": True}}, "/forecast", "prophets"),
    ({"forecast": None}, "/forecast", "belongs to task forecasting"),
    ({"task": "classification"}, "/forecast", "belongs to task forecasting"),
    ({"target": {"classes": ["few", "many"]}}, "/target/classes", "no classes"),
    ({"target": {"column": "share_7d"}}, "/target/column", "no aggregate"),
    ({"search": {"metric": "auc"}}, "/search/metric", "no metric of forecasting"),
    ({"views": []}, "/views", "must name one view"),
    ({"views": ["demand_day"]}, "/views/0", "did you mean 'demand_days'?"),
    ({"views": ["card_activity"]}, "/views/0", "no windowed view"),
    ({"views": ["merchant_sales"]}, "/views/0", "no windowed view"),
    ({"evaluation": {"origins": 0}}, "/evaluation/origins", "one origin at least"),
    ({"gate": {"mape": 1.5}}, "/gate/mape", "<= 1.0"),
    ({"pipeline": "forecast"}, "/pipeline", "did you mean 'forecasts'?"),
    ({"pipeline": "demand"}, "/pipeline", "forecasts nothing"),
    ({"pipeline": "hourly_forecasts"}, "/views/0", "forecasts by demand_hours"),
    ({"forecast": {"scale": "bookings_14d"}}, "/forecast/scale", "forecasts by bookings_28d"),
    (
        {"target": {"column": "bookings"}, "forecast": {"horizons": [HORIZON]}},
        "/forecast/horizons",
        "lack next_",
    ),
    ({"expectations": [{"column": "targt", "kind": "present"}]}, "/expectations/0/column", "'target'"),
]


@pytest.mark.parametrize(
    ("change", "place", "reason"), WRONG_FORECASTS, ids=[two for _, two, _ in WRONG_FORECASTS]
)
def test_what_is_wrong_with_a_forecast_is_told_with_its_place(
    change: dict[str, Any], place: str, reason: str
) -> None:
    with pytest.raises(Rejected) as refused:
        parse(changed(shipped_values("demand"), change), where="test")
    assert reason in refused.value.fields[place]


def test_a_quick_forecast_is_judged_all_the_same() -> None:
    assert shipped("demand").quick().evaluation.origins == shipped("demand").evaluation.origins
    assert shipped("demand").quick().search.trials == 0
    assert shipped("fraud").quick().evaluation.origins == 0


@pytest.mark.parametrize(("change", "place", "reason"), WRONG, ids=[place for _, place, _ in WRONG])
def test_what_is_wrong_is_told_with_its_place(change: dict[str, Any], place: str, reason: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse(changed(shipped_values("fraud"), change), where="test")
    assert reason in refused.value.fields[place]


def test_everything_wrong_is_told_at_once() -> None:
    change = {"target": {"classes": ["a"]}, "schedule": "x", "views": ["none"]}
    with pytest.raises(Rejected) as refused:
        parse(changed(shipped_values("fraud"), change), where="test")
    assert {"/target/classes", "/schedule", "/views/0"} <= refused.value.fields.keys()


def test_shipped_ones_are_right_and_weekly() -> None:
    for name in shipped_names():
        found = shipped(name)
        assert found.name == name
        assert found.schedule == "0 2 * * 0"
        assert found.history_days == 730
        assert parse(values_of(found), where="again") == found
    with pytest.raises(UnknownName, match="training"):
        shipped("frod")


def test_a_file_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        'name = "fraud"\npipeline = "fraud"\n[search]\ntrials = 0\n'
        '[target]\ncolumn = "is_fraud"\nclasses = ["no", "yes"]\n'
    )
    assert configurations(tmp_path)["fraud"].search.trials == 0
    assert configurations(None)["fraud"].search.trials == 20
    (tmp_path / "own.toml").write_text("name = ")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(tmp_path / "own.toml")


@pytest.mark.parametrize(
    ("text", "after", "due"),
    [
        ("0 2 * * 0", "2026-11-21T23:00", "2026-11-22T02:00"),
        ("0 2 * * sun", "2026-11-22T02:00", "2026-11-29T02:00"),
        ("0 2 * * 7", "2026-11-22T01:59", "2026-11-22T02:00"),
        ("*/15 * * * *", "2026-01-01T00:14", "2026-01-01T00:15"),
        ("30 8-10/2 * * *", "2026-01-01T08:30", "2026-01-01T10:30"),
        ("0 0 29 feb *", "2026-01-01T00:00", "2028-02-29T00:00"),
        ("0 0 13 * fri", "2026-11-21T00:00", "2026-11-27T00:00"),
        ("59 23 31 12 *", "2026-12-31T23:59", "2027-12-31T23:59"),
    ],
)
def test_cron(text: str, after: str, due: str) -> None:
    at = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert Cron.parse(text).after(at) == datetime.fromisoformat(due).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "a * * * *"]
)
def test_what_is_no_cron_expression(text: str) -> None:
    with pytest.raises(InvalidInput):
        Cron.parse(text)
