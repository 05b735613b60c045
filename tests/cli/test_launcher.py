"""The launcher: makes the environment when the lock has changed, and is out of the way afterwards."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose environment is made by a `uv` that only says that it was called."""
    folder = tmp_path / "clone with a space"
    program(folder / ".venv/bin/python", "exit 0")
    program(folder / ".venv/bin/millstream", 'echo "out $*"; echo "err $*" >&2; exit 7')
    program(tmp_path / "bin/uv", "echo uv >&2")
    for name in ("millstream", "requirements.lock", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def start(clone: Path) -> subprocess.CompletedProcess[str]:
    path = f"{clone.parent / 'bin'}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(clone.parent)}
    return subprocess.run(
        [clone / "millstream", "demo", "--json"],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_the_first_start_makes_the_environment_and_shows_what_the_command_says(clone: Path) -> None:
    first = start(clone)
    assert (first.stdout, first.returncode) == ("out demo --json\n", 7)
    assert "making the virtual environment" in first.stderr
    assert first.stderr.count("uv\n") >= 2
    assert first.stderr.endswith("err demo --json\n")


def test_the_next_start_makes_nothing_until_the_lock_changes(clone: Path) -> None:
    start(clone)
    assert start(clone).stderr == "err demo --json\n"
    with (clone / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert "making the virtual environment" in start(clone).stderr
