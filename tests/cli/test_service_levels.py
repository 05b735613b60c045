"""`millstream test --sla`: the table of what the suites wrote, and the code that it ends with."""

import json
from pathlib import Path

import msgspec
import pytest

import cli.check_commands
from cli.main import run
from cli.service_levels import ALL, LEVELS, SUCCESS, SUITES, Measured, Run, missed, rows
from tests.integration.levels import conftest as levels

ROOT = Path(__file__).resolve().parents[2]
GOOD = [
    Measured("health", "health", "ms", [4.0] * 98 + [20.0, 49.0]),
    Measured("authentication", "authentication_and_keys", "ms", [9.0, 20.0]),
    Measured("breaker overhead", "breaker", "ms", [0.001, 0.002]),
    Measured("failover", "failover", "ms", [30.0, 45.0]),
    Measured("gateway failover", "failover", "ms", [40.0, 60.0]),
    Measured("inference", "endpoints", "tokens/s", [21.0, 24.0]),
]
CONFTEST = """
from pathlib import Path

def pytest_addoption(parser):
    parser.addoption("--measured-to", type=Path)

def pytest_sessionfinish(session):
    written = Path(__file__).with_name("written.json")
    if written.exists():
        session.config.getoption("--measured-to").write_bytes(written.read_bytes())
"""


class Suites:
    """A folder in the place of the suites: what they write, and whether they pass."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "conftest.py").write_text(CONFTEST)
        self.passing(True)

    def passing(self, passes: bool) -> None:
        (self.folder / "test_one.py").write_text(f"def test_one():\n    assert {passes}\n")

    def wrote(self, run: Run) -> None:
        (self.folder / "written.json").write_bytes(msgspec.json.encode(run))


@pytest.fixture
def suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suites:
    monkeypatch.setattr(cli.check_commands, "LEVELS", str(tmp_path))
    monkeypatch.setattr(cli.check_commands, "static_checks", lambda: pytest.fail("they are not asked for"))
    return Suites(tmp_path)


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["millstream", "test", *arguments])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as found:
        run()
    return found.value.code


def test_all_levels_are_told_with_the_suite_that_measured_them(
    suites: Suites, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    suites.wrote(Run(GOOD, requests=1000, failures=2, failed=["health: GET /health: 503"]))
    file = tmp_path / "levels.json"
    assert ended(monkeypatch, "--sla", "--strict", "--json", str(file)) == 0
    told = capfd.readouterr().out
    table = told[told.index("1 passed") :]
    for level in LEVELS:
        (line,) = [line for line in table.splitlines() if line.startswith(f"│ {level.name} ")]
        assert level.told in line
        assert level.suite in line
        assert "met" in line
    assert "1000 requests, 2 failed" in table
    assert "health: GET /health: 503" in table
    document = json.loads(file.read_text())
    assert (document["missed"], document["suites_passed"]) == ([], True)
    assert [row["level"] for row in document["levels"]] == [level.name for level in LEVELS]
    assert document["levels"][0]["worst"] == 49
    assert document["requests"] == {"sent": 1000, "failures": 2, "failed": ["health: GET /health: 503"]}


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 1)])
def test_a_missed_level_fails_only_where_that_is_wanted(
    suites: Suites,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    strict: tuple[str, ...],
    code: int,
) -> None:
    slow = [
        Measured("failover", "failover", "ms", [30.0, 900.0]) if m.name == "failover" else m for m in GOOD
    ]
    suites.wrote(Run(slow, requests=10))
    assert ended(monkeypatch, "--sla", *strict) == code
    told = capfd.readouterr().out
    assert told.rstrip().endswith("missed: failover")


def test_a_suite_that_fails_fails_whatever_was_measured(
    suites: Suites, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    suites.passing(False)
    suites.wrote(Run(GOOD, requests=10))
    assert ended(monkeypatch, "--sla") == 1
    assert "Service levels of this run" in capfd.readouterr().out


def test_suites_that_were_all_skipped_are_no_success(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    suites.wrote(Run([]))
    assert ended(monkeypatch, "--sla") == 1


def test_suites_that_were_cut_short_are_no_measurement(
    suites: Suites, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "--sla") == 1
    assert "no measurements" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("--strict",), ("--json", "x"), ("--sla", "--unit"), ("--sla", "--full")]
)
def test_options_that_do_not_go_together_are_a_usage_error(
    suites: Suites, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    assert ended(monkeypatch, *arguments) == 2


def test_what_nobody_measured_is_not_met() -> None:
    assert missed(rows(Run(GOOD[:1]))) == [level.name for level in LEVELS[1:]]


def test_higher_is_better_is_judged_by_the_low_end() -> None:
    speeds = Measured("inference", "endpoints", "tokens/s", [30.0] * 50 + [5.0])
    assert "inference" in missed(rows(Run([*GOOD[:-1], speeds], requests=1)))


def test_what_has_no_goal_is_told_and_cannot_be_missed() -> None:
    beside = Measured("swap", "versions", "ms", [900.0])
    found = rows(Run([*GOOD, beside], requests=1))
    assert found[-1].level == "swap"
    assert found[-1].met is None
    assert missed(found) == []


def test_every_suite_is_a_module_of_its_name_and_every_level_is_of_one() -> None:
    there = {path.stem.removeprefix("test_") for path in (ROOT / cli.check_commands.LEVELS).glob("test_*.py")}
    assert there == set(SUITES)
    assert len(SUITES) == 12
    assert {level.suite for level in LEVELS} <= {*SUITES, ALL}
    assert levels.OPTION == "--measured-to"
    assert SUCCESS in [level.name for level in LEVELS]
