"""Which checkpoint or savepoint a job resumes from."""

import os
import struct
from pathlib import Path

import pytest

from core.errors import StackError
from core.settings import Flink, Settings
from jobs.on_flink.restore_points import StateFolders, restore_points

GOOD = struct.pack(">ii", 0x4960672D, 4) + b"..."


@pytest.fixture
def folders(tmp_path: Path) -> StateFolders:
    return StateFolders(tmp_path / "checkpoints", tmp_path / "savepoints")


def put(path: Path, at: float, content: bytes | None = GOOD) -> Path:
    path.mkdir(parents=True)
    if content is not None:
        (path / "_metadata").write_bytes(content)
        os.utime(path / "_metadata", (at, at))
    return path


def test_the_newest_complete_one_comes_first(folders: StateFolders) -> None:
    old = put(folders.checkpoints / "job1" / "chk-9", 100)
    new = put(folders.checkpoints / "job2" / "chk-2", 300)
    middle = put(folders.savepoints / "savepoint-a", 200)
    put(folders.checkpoints / "job2" / "chk-3", 400, content=None)  # still being written
    put(folders.checkpoints / "job2" / "shared", 500)
    assert [point.path for point in restore_points(folders)] == [new, middle, old]


@pytest.mark.parametrize("content", [b"", b"\x49\x60", b"garbage and more", GOOD[:4] + struct.pack(">i", 0)])
def test_what_is_no_metadata_is_passed_over(folders: StateFolders, content: bytes) -> None:
    good = put(folders.checkpoints / "job" / "chk-1", 100)
    put(folders.checkpoints / "job" / "chk-2", 200, content)
    assert [point.path for point in restore_points(folders)] == [good]


def test_what_did_not_load_is_left_out(folders: StateFolders) -> None:
    good = put(folders.checkpoints / "job" / "chk-1", 100)
    bad = put(folders.savepoints / "savepoint-b", 200)
    assert [point.path for point in restore_points(folders, {bad})] == [good]


def test_nothing_there_is_no_error(folders: StateFolders) -> None:
    assert restore_points(folders) == []


def test_folders_follow_the_setting(tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    assert StateFolders.of(home, "fraud-1").checkpoints == tmp_path / "flink" / "checkpoints" / "fraud-1"
    given = Settings(home=tmp_path, flink=Flink(checkpoints="file:///data/my%20state/chk"))
    assert StateFolders.of(given, "f").checkpoints == Path("/data/my state/chk/f")
    assert StateFolders.of(given, "f").savepoints == Path("/data/my state/savepoints/f")
    with pytest.raises(StackError, match="s3"):
        StateFolders.of(Settings(home=tmp_path, flink=Flink(checkpoints="s3://bucket/x")), "f")
