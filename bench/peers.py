"""Environments for peers that do not fit ours: one virtual environment per pinned set, in the cache."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from core.errors import DeclarationError, StackError
from core.ids import digest
from core.settings import Settings, settings

_TIMEOUT_S = 600


def peer_python(name: str, requirements: Sequence[str], *, of: Settings | None = None) -> Path:
    """The interpreter of the peer's environment, made at first use.

    Requirements are pinned (`name==version`), so that a figure says what it was measured against; another set
    is another environment. Raises StackError when it cannot be made.
    """
    for requirement in requirements:
        if "==" not in requirement:
            raise DeclarationError(
                f"peer requirement {requirement!r} is not pinned",
                where=f"peer {name}",
                mend="write name==version",
            )
    key = digest("\n".join([sys.version, *sorted(requirements)]).encode())[:12]
    folder = (of or settings()).cache / "peers" / f"{name}-{key}"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=_TIMEOUT_S):
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run(name, [sys.executable, "-m", "venv", str(folder)])
            _run(name, _installer(python) + list(requirements))
            ready.touch()
    return python


def _installer(python: Path) -> list[str]:
    uv = shutil.which("uv") or next(
        (str(path) for path in (Path(sys.executable).parent / "uv",) if path.exists()), None
    )
    if uv is not None:
        return [uv, "pip", "install", "--python", str(python), "--quiet"]
    return [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _run(name: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(
            f"the environment of peer {name} cannot be made: {error}", where=command[0]
        ) from error
    if done.returncode:
        raise StackError(
            f"the environment of peer {name} cannot be made",
            where=" ".join(command),
            mend=(done.stderr or done.stdout).strip()[-500:] or "run the command by hand",
        )
