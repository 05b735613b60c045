"""A pipeline wired wrongly does not type-check; a right one does. One run of mypy over all the cases."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.card_testing import CARD_TESTING
from pipelines.builder import DEAD_LETTERS, Pipeline, pipeline
from pipelines.catalog.fraud import BANDS, ENRICHED, LABELS, RESULTS, STATUS, TRANSACTIONS

@pipeline("p", version=1, unrouted=DEAD_LETTERS)
def wired(p: Pipeline) -> None:
"""
RIGHT = (
    "p.write(p.read(TRANSACTIONS).enrich(CARD_ACTIVITY, to=ENRICHED).infer('m').ok.decide(BANDS).ok, RESULTS)"
)
WRONG = {
    "a model without features": ("p.read(TRANSACTIONS).infer('m')", "attr-defined"),
    "a decision without a score": (
        "p.read(TRANSACTIONS).enrich(CARD_ACTIVITY, to=ENRICHED).decide(BANDS)",
        "attr-defined",
    ),
    "a decision on both outputs": (
        "p.read(TRANSACTIONS).enrich(CARD_ACTIVITY, to=ENRICHED).infer('m').decide(BANDS)",
        "attr-defined",
    ),
    "scores written as decisions": (
        "p.write(p.read(TRANSACTIONS).enrich(CARD_ACTIVITY, to=ENRICHED).infer('m').ok, RESULTS)",
        "arg-type",
    ),
    "failures written as decisions": (
        "p.write("
        "p.read(TRANSACTIONS).enrich(CARD_ACTIVITY, to=ENRICHED).infer('m').ok.decide(BANDS).failed,"
        " RESULTS)",
        "arg-type",
    ),
    "a pattern for a view": ("p.read(TRANSACTIONS).enrich(CARD_TESTING, to=ENRICHED)", "arg-type"),
    "a view without a topic": ("p.read(TRANSACTIONS).enrich(CARD_ACTIVITY)", "call-arg"),
    "a name for a topic": ("p.read('fraud.transactions.events.v1')", "arg-type"),
    "no labels": ("p.follow(status=STATUS)", "call-arg"),
    "labels by position": ("p.follow(STATUS, LABELS)", "call-arg|misc"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The codes of mypy's errors, by case."""
    folder = tmp_path_factory.mktemp("wirings")
    cases = {"right": RIGHT, **{name: body for name, (body, _) in WRONG.items()}}
    files = {}
    for number, (name, body) in enumerate(cases.items()):
        files[f"case_{number}.py"] = name
        (folder / f"case_{number}.py").write_text(f"{HEAD}    {body}\n")
    # a process of its own: in this one a million objects would stay, for each collection of garbage
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "mypy", "--config-file", "pyproject.toml", "--no-pretty"),
            *("--explicit-package-bases", *(str(folder / name) for name in files)),
        ],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    codes: dict[str, set[str]] = {name: set() for name in cases}
    for line in done.stdout.splitlines():
        told = re.search(r"(case_\d+\.py):\d+: error: .*\[([a-z-]+)\]$", line)
        if told:
            codes[files[told[1]]].add(told[2])
        else:
            assert ": error:" not in line, line
    return codes


def test_the_right_wiring_type_checks(found: dict[str, set[str]]) -> None:
    assert found["right"] == set()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_wiring_does_not(name: str, found: dict[str, set[str]]) -> None:
    assert found[name] & set(WRONG[name][1].split("|")), found[name]
