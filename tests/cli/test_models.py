"""`millstream models`, as a user starts it, on a registry of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.settings import Settings
from models.registry import open_registry
from models.store import CHAMPION, MODEL
from stack.local import Stack
from tests.models import made

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of `small`, the first its champion."""
    home = tmp_path_factory.mktemp("home")
    registry = open_registry(Settings(home=home))
    for _ in range(2):
        registry.publish("small", made.files(made.booster()), made.DESCRIPTION)
    registry.set_alias("small", CHAMPION, "1")
    return home


def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """With the session's services and a registry in `home`."""
    mlflow = "MILLSTREAM_MLFLOW"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(mlflow)}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "models", *arguments],
        cwd=ROOT,
        env={**kept, "MILLSTREAM_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.services
def test_a_life_of_a_version_on_the_command_line(home: Path, tmp_path: Path, stack: Stack) -> None:
    del stack  # what is changed is told in the audit trail, or not changed
    listed = json.loads(run(home, "list", "--json").stdout)
    assert [(row["version"], row["aliases"], row["state"]) for row in listed] == [
        ("2", "", "complete"),
        ("1", "champion", "complete"),
    ]
    promoted = run(home, "promote", "small", "2", "-o", "json")
    assert promoted.returncode == 0, promoted.stderr
    assert json.loads(promoted.stdout)["aliases"] == {"champion": "2", "previous": "1"}
    described = json.loads(run(home, "describe", "small", "--json").stdout)
    assert (described["version"], described["data"]["licence"]) == ("2", "none")
    assert "small" in run(home, "describe", "small").stdout

    folder = home / "models" / "small" / "1"
    registered = run(home, "register", "other", str(folder), "--json")
    assert json.loads(registered.stdout)["version"] == "1"
    (folder / MODEL).write_bytes(b"damaged")
    assert run(home, "verify", "small", "1").returncode == 0, "it was fetched again"

    source = open_registry(Settings(home=home)).models()["small"].versions["1"].source
    for place in (folder, Path(source)):
        (place / MODEL).write_bytes(b"damaged")
    refused = run(home, "verify", "small", "1", "--json")
    assert refused.returncode == 1
    assert [row["check"] for row in json.loads(refused.stdout) if not row["passed"]] == [
        "digests",
        "golden outputs",
    ]
    held_back = run(home, "promote", "small", "1")
    assert held_back.returncode == 1
    assert "bytes" in held_back.stderr
    again = run(home, "register", "other", str(folder))
    assert again.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("describe", "smal"), 1, "did you mean 'small'?"),
        (("verify", "small", "champio"), 1, "did you mean 'champion'?"),
        (("promote", "small", "2", "--to", "chalenger"), 1, "did you mean 'challenger'?"),
        (("register", "small"), 1, "nothing to register"),
        (("list", "-o", "yaml"), 2, "yaml"),
    ],
)
def test_what_cannot_be_done_says_why(home: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run(home, *arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
