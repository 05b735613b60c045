"""The installed command and its launcher, started as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("millstream")


def run(*arguments: str | Path, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with packages named as ours, which must never be taken for ours."""
    for name in ("models", "core", "schemas", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package was imported')\n")
    return tmp_path


def test_a_users_own_packages_do_not_shadow_ours(project: Path) -> None:
    done = run(COMMAND, "plan", "fraud", "--text", cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pipeline fraud v1")


def test_the_origin_of_a_setting_is_told(tmp_path: Path) -> None:
    done = run(
        COMMAND, "config", "show", "--origin", "-o", "json", cwd=tmp_path, MILLSTREAM_REDIS__PORT="7777"
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["redis.port"] == {"value": "7777", "origin": "environment MILLSTREAM_REDIS__PORT"}
    assert shown["kafka.port"]["origin"] == "default"


def test_an_unknown_pipeline_is_one_clear_error(tmp_path: Path) -> None:
    done = run(COMMAND, "plan", "fruad", "--text", cwd=tmp_path)
    assert done.returncode == 1
    assert "unknown pipeline 'fruad'" in done.stderr
    assert "did you mean 'fraud'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_launcher_says_what_to_install_without_python_3_11(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cat", "cmp", "dirname", "readlink", "awk", "rm", "flock"):
        for folder in ("/bin", "/usr/bin"):
            if Path(folder, name).exists():
                (tools / name).symlink_to(Path(folder, name))
                break
    done = run(
        "/bin/sh",
        ROOT / "millstream",
        "status",
        cwd=tmp_path,
        PATH=str(tools),
        MILLSTREAM_VENV=str(tmp_path / "venv"),
    )
    assert done.returncode == 1
    assert "Python 3.11 is wanted" in done.stderr
    assert "python3.11-venv" in done.stderr
    assert not (tmp_path / "venv").exists()
