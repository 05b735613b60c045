"""The committed `.avsc` files are what the records compile to: a change of meaning is a diff to review."""

import json

import pytest

from schemas.avro import AVSC, catalog, files, main
from schemas.evolution import check_backward

MODULES = (
    "pipelines.catalog.fraud",
    "pipelines.catalog.demand",
    "pipelines.catalog.forecasts",
    "pipelines.catalog.hourly_forecasts",
    "pipelines.catalog.merchants",
    "schemas.catalog.training",
    "schemas.catalog.experiments",
    "schemas.catalog.conversations",
    "schemas.catalog.security",
)


@pytest.mark.parametrize("path", sorted(files(MODULES)), ids=lambda path: path.stem)
def test_the_committed_schema_is_the_compiled_one(path: object) -> None:
    assert path.read_text() == files(MODULES)[path], (
        "run `python -m schemas.avro write` with the modules of the pipelines"
    )  # type: ignore[attr-defined]


def test_no_committed_schema_is_left_over() -> None:
    assert {path.name for path in AVSC.glob("*.avsc")} == {path.name for path in files(MODULES)}


def test_the_check_command_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *MODULES]) == 0
    assert capsys.readouterr().out == ""


def test_every_record_of_the_fraud_pipeline_is_there() -> None:
    names = {name.rpartition(".")[2] for name in catalog(MODULES)}
    assert names >= {
        "Transaction", "EnrichedTransaction", "Decision", "StatusChange", "Verdict", "Alert"
    }  # fmt: skip


def test_a_committed_schema_can_be_read_by_itself() -> None:
    for path in AVSC.glob("*.avsc"):
        schema = json.loads(path.read_text())
        assert check_backward([schema], schema) == []
