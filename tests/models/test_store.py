"""The store: complete versions or none, aliases that are never absent, no way out of its folder."""

import threading
from pathlib import Path

import pytest

from core.errors import InvalidInput, ModelRefused, UnknownName
from models.store import CHAMPION, MANIFEST, MODEL, ModelStore
from tests.models import made


def test_what_was_published_is_read_back(store: ModelStore, files: dict[str, bytes]) -> None:
    stored = store.resolve("small")
    assert (stored.name, stored.version) == ("small", "1")
    assert {name: stored.read(name) for name in files} == files
    assert stored.manifest.description == made.DESCRIPTION
    assert store.names() == ["small"]
    assert store.aliases("small") == {CHAMPION: "1"}


def test_versions_count_up_and_the_alias_stays(store: ModelStore, files: dict[str, bytes]) -> None:
    for _ in range(10):
        store.publish("small", files, made.DESCRIPTION)
    assert store.versions("small") == [str(n) for n in range(1, 12)]
    assert store.resolve("small").version == "1"
    store.set_alias("small", CHAMPION, "11")
    assert store.resolve("small").version == "11"
    store.set_alias("small", CHAMPION, "2")
    assert store.resolve("small").version == "2"


def test_publishing_at_once_loses_no_version(store: ModelStore, files: dict[str, bytes]) -> None:
    found: list[str] = []

    def publish() -> None:
        found.append(store.publish("small", files, made.DESCRIPTION).version)

    threads = [threading.Thread(target=publish) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found, key=int) == ["2", "3", "4", "5", "6", "7"]
    assert store.versions("small") == ["1", "2", "3", "4", "5", "6", "7"]
    for version in found:
        assert store.resolve("small", version).version == version


def test_a_failed_publish_leaves_nothing(
    store: ModelStore, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in (store.root / "small").iterdir())

    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space"):
        store.publish("small", files, made.DESCRIPTION)
    assert sorted(path.name for path in (store.root / "small").iterdir()) == before


@pytest.mark.parametrize(
    "name", ["../small", "small/../small", "/tmp", "", ".", "..", "Small", "a" * 65, "a\n"]
)
def test_a_name_that_is_a_path_is_refused(store: ModelStore, files: dict[str, bytes], name: str) -> None:
    for attempt in (
        lambda: store.resolve(name),
        lambda: store.resolve("small", name),
        lambda: store.versions(name),
        lambda: store.publish(name, files, made.DESCRIPTION),
        lambda: store.set_alias("small", name, "1"),
    ):
        with pytest.raises(InvalidInput):
            attempt()


@pytest.mark.parametrize("file", ["../model.onnx", "a/b", "/etc/passwd", "..", MANIFEST])
def test_a_file_that_is_a_path_is_refused(store: ModelStore, files: dict[str, bytes], file: str) -> None:
    with pytest.raises(InvalidInput, match="file name"):
        store.publish("small", {**files, file: b"x"}, made.DESCRIPTION)


def test_a_manifest_that_names_a_path_is_refused(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path = store.root / "small" / "1" / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"model.onnx"', b'"../../../secret"'))
    with pytest.raises(ModelRefused, match="names a file"):
        store.resolve("small", "1")


def test_a_link_in_place_of_a_file_is_refused(store: ModelStore, tmp_path: Path) -> None:
    stored = store.resolve("small")
    outside = tmp_path / "outside.onnx"
    (stored.folder / MODEL).rename(outside)
    (stored.folder / MODEL).symlink_to(outside)
    with pytest.raises(ModelRefused, match="missing"):
        stored.read(MODEL)


def test_a_version_without_its_parts_is_not_published(store: ModelStore, files: dict[str, bytes]) -> None:
    with pytest.raises(InvalidInput, match=r"golden\.arrow"):
        store.publish("small", {k: v for k, v in files.items() if k != "golden.arrow"}, made.DESCRIPTION)


def test_the_nearest_name_is_suggested(store: ModelStore) -> None:
    with pytest.raises(UnknownName, match="'small'"):
        store.resolve("smal")
    with pytest.raises(UnknownName, match="model version '9'"):
        store.resolve("small", "9")
    with pytest.raises(UnknownName, match="champion"):
        store.resolve("small", "champio")
