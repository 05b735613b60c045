"""Data made once and kept in the cache folder as Parquet."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from filelock import FileLock, Timeout

from core.carrier import TIMEOUT_S
from core.errors import Unavailable
from core.settings import settings


def cached(name: str, make: Callable[[], pa.Table]) -> Path:
    """The file `name` in the cache folder. The first call makes its table; one process at a time does.

    A file is there whole or not at all. Raises what `make` raises, and Unavailable when another process is
    at it for longer than 15 minutes.
    """
    path = settings().cache / "data" / name
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=TIMEOUT_S):
            if not path.is_file():
                _write(make(), path)
    except Timeout as error:
        raise Unavailable(f"another process still downloads {name}", mend="wait for it") from error
    return path


def _write(table: pa.Table, path: Path) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    os.close(descriptor)
    try:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
