"""Where a job can resume from: retained checkpoints and savepoints of its lineage, on disk.

A lineage has its own folders, so every point in them fits the job. Only complete points count (Flink
writes `_metadata` last). A point whose metadata is no metadata is damaged: it is passed over with a
warning, and so is one that the keeper found not to load.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from core.errors import StackError
from core.settings import Settings
from core.telemetry.log import logger

log = logger("jobs.on_flink")

METADATA = "_metadata"
_MAGIC = 0x4960672D  # Checkpoints.HEADER_MAGIC_NUMBER in Flink
_VERSIONS = range(1, 100)


@dataclass(frozen=True)
class StateFolders:
    """The folders of one lineage, as local paths."""

    checkpoints: Path
    savepoints: Path

    @classmethod
    def of(cls, settings: Settings, job: str) -> "StateFolders":
        """Raises StackError when the setting names no folder of this machine."""
        base = settings.root / "flink"
        checkpoints = base / "checkpoints"
        if settings.flink.checkpoints is not None:
            parsed = urlparse(settings.flink.checkpoints)
            if parsed.scheme not in ("", "file") or parsed.netloc not in ("", "localhost"):
                raise StackError(
                    f"checkpoints lie at {settings.flink.checkpoints}",
                    where="setting flink.checkpoints",
                    mend="give a folder that both Flink and this machine see",
                )
            checkpoints = Path(unquote(parsed.path))
        return cls(checkpoints / job, checkpoints.parent / "savepoints" / job)


@dataclass(frozen=True)
class RestorePoint:
    """One complete checkpoint or savepoint. `taken_at`: seconds since the epoch."""

    path: Path
    taken_at: float


def restore_points(folders: StateFolders, damaged: Iterable[Path] = ()) -> list[RestorePoint]:
    """The usable points, newest first; what is in `damaged` is left out."""
    bad = set(damaged)
    found = []
    candidates = [*folders.checkpoints.glob(f"*/chk-*/{METADATA}"), *folders.savepoints.glob(f"*/{METADATA}")]
    for metadata in candidates:
        if metadata.parent in bad:
            continue
        try:
            taken_at = metadata.stat().st_mtime
            readable = _is_metadata(metadata)
        except FileNotFoundError:  # Flink dropped it just now
            continue
        if readable:
            found.append(RestorePoint(metadata.parent, taken_at))
        else:
            log.warning("passing over a damaged restore point", path=str(metadata.parent))
    return sorted(found, key=lambda point: point.taken_at, reverse=True)


def _is_metadata(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(8)
    if len(head) < 8:
        return False
    magic, version = struct.unpack(">ii", head)
    return magic == _MAGIC and version in _VERSIONS
