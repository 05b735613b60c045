"""A command that says no must end with a code that says no, or CI passes on failures."""

import pytest

import cli.check_commands
from cli.main import run


@pytest.mark.parametrize(("passes", "code"), [(True, 0), (False, 1)])
def test_check_ends_with_what_it_found(monkeypatch: pytest.MonkeyPatch, passes: bool, code: int) -> None:
    monkeypatch.setattr(cli.check_commands, "static_checks", lambda: passes)
    monkeypatch.setattr("sys.argv", ["millstream", "check"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == code


def test_tests_do_not_run_and_do_not_pass_when_the_checks_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.check_commands, "static_checks", lambda: False)
    monkeypatch.setattr("sys.argv", ["millstream", "test"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 1
