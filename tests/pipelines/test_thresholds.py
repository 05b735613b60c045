"""Thresholds as data: the shipped file is sound, and what makes no sense is refused with its place."""

from datetime import timedelta
from pathlib import Path

import pytest

from core.errors import InvalidInput, Rejected
from operators.error_rates import Threshold
from pipelines.thresholds import OPERATORS, parse, thresholds

ONE = '[[threshold]]\noperator = "infer"\nrate = 0.05\nminutes = 1\n'


def test_the_shipped_thresholds_name_every_operator() -> None:
    shipped = thresholds("fraud")
    assert {threshold.operator for threshold in shipped} == set(OPERATORS)
    assert len({threshold.name for threshold in shipped}) == len(shipped)


def test_a_file_takes_their_place(tmp_path: Path) -> None:
    file = tmp_path / "rates.toml"
    file.write_text(ONE + 'code = "model_failed"\ncalls = 7\nseverity = "critical"\ncleared = 0.01\n')
    assert thresholds("fraud", file) == (
        Threshold("infer", 0.05, timedelta(minutes=1), "model_failed", 7, "critical", 0.01),
    )


def test_a_pipelines_own_threshold_takes_the_place_of_the_general_one() -> None:
    both = (ONE + ONE.replace("0.05", "0.2") + 'pipeline = "fraud"\n').encode()
    assert [t.rate for t in parse(both, "fraud", where="x")] == [0.2]
    assert [t.rate for t in parse(both, "other", where="x")] == [0.05]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (ONE.replace("infer", "infre"), "/threshold/0/operator"),
        (ONE + 'colour = "red"\n', ""),
        (ONE.replace("0.05", "1.0"), ""),
        (ONE.replace("0.05", "-0.1"), ""),
        (ONE.replace("0.05", "nan"), ""),
        (ONE.replace("minutes = 1", "minutes = 2"), ""),
        (ONE + "calls = 0\n", ""),
        (ONE + 'severity = "loud"\n', ""),
        (ONE + "cleared = 0.06\n", "/threshold/0"),
        (ONE + ONE, "/threshold/1"),
        ("[threshold]\n", ""),
        ("thresholds = []\n", ""),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(Rejected) as raised:
        parse(text.encode(), "fraud", where="rates.toml")
    assert list(raised.value.fields) == [place]
    assert raised.value.where == "rates.toml"


@pytest.mark.parametrize("data", [b"\xff", b"[[threshold", b"#" * 70_000])
def test_what_is_no_toml_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(data, "fraud", where="rates.toml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        thresholds("fraud", tmp_path / "none.toml")
