"""Pinned artifacts: only what has the pinned digest is ever used, and what is cached needs no network."""

import functools
import hashlib
import http.server
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import StackError
from stack import artifacts
from stack.artifacts import ROOTS, Artifact, ArtifactCache, Coordinate, read_lock

CONTENT = b"a jar, as far as anyone here is concerned"
COORDINATE = Coordinate.parse("org.example:thing:1.0")


def pinned(content: bytes = CONTENT, coordinate: Coordinate = COORDINATE) -> Artifact:
    return Artifact(coordinate, hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository on loopback, made known to jgo the way a user would."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    configuration = tmp_path / "jgo.conf"
    configuration.write_text(f"[repositories]\nlocal = http://127.0.0.1:{server.server_port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(configuration))
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(artifacts, "Downloads", refuse)


def publish(mirror: Path, content: bytes, coordinate: Coordinate = COORDINATE) -> None:
    path = mirror / coordinate.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_a_missing_artifact_is_downloaded_checked_and_reported(mirror: Path, tmp_path: Path) -> None:
    publish(mirror, CONTENT)
    seen: list[tuple[int, int]] = []
    cache = ArtifactCache(tmp_path / "cache", {"set": (pinned(),)})
    (path,) = cache.fetch("set", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert cache.missing("set") == ()


def test_a_download_with_the_wrong_digest_is_refused_and_not_kept(mirror: Path, tmp_path: Path) -> None:
    publish(mirror, b"something else")
    cache = ArtifactCache(tmp_path / "cache", {"set": (pinned(),)})
    with pytest.raises(StackError, match="wrong digest and is refused") as caught:
        cache.fetch("set")
    assert caught.value.code == "wrong_digest"
    assert list((tmp_path / "cache").rglob("*.jar")) == []


def test_an_altered_file_in_the_cache_is_refused(mirror: Path, tmp_path: Path) -> None:
    publish(mirror, CONTENT)
    cache = ArtifactCache(tmp_path / "cache", {"set": (pinned(),)})
    (path,) = cache.fetch("set")
    path.write_bytes(CONTENT + b"!")
    for use in (cache.fetch, cache.verified):
        with pytest.raises(StackError, match="wrong digest"):
            use("set")


@pytest.mark.usefixtures("no_network")
def test_what_is_cached_needs_no_network(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache", {"set": (pinned(),)})
    path = cache.folder / COORDINATE.path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert cache.fetch("set") == (path,)


def test_an_artifact_that_nobody_has_is_told_with_a_mend(mirror: Path, tmp_path: Path) -> None:
    del mirror
    cache = ArtifactCache(tmp_path / "cache", {"set": (pinned(),)})
    with pytest.raises(StackError, match=r"org\.example:thing:1\.0 cannot be downloaded") as caught:
        cache.fetch("set")
    assert caught.value.mend


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no artifacts are pinned"):
        ArtifactCache(tmp_path, {}).fetch("kafka")


def test_an_archive_is_unpacked_once_from_the_verified_file(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("app/run.jar")
        entry.size = len(CONTENT)
        tar.addfile(entry, io.BytesIO(CONTENT))
    coordinate = Coordinate.parse("org.example:app:1.0:tar.gz:all")
    cache = ArtifactCache(tmp_path, {"app": (pinned(packed.getvalue(), coordinate),)})
    path = cache.folder / coordinate.path
    path.parent.mkdir(parents=True)
    path.write_bytes(packed.getvalue())
    folder = cache.unpacked("app")
    assert (folder / "app" / "run.jar").read_bytes() == CONTENT
    assert cache.unpacked("app") == folder
    path.write_bytes(b"")
    with pytest.raises(StackError, match="wrong digest"):
        cache.unpacked("app")


@pytest.mark.parametrize("text", ["org.example:thing", "a:b:c:d", "", "a::c"])
def test_a_malformed_coordinate_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="is no coordinate"):
        Coordinate.parse(text)


def test_a_coordinate_reads_as_it_is_written() -> None:
    for text in ("org.example:thing:1.0", "org.example:thing:1.0:tar.gz:all"):
        assert str(Coordinate.parse(text)) == text
    assert Coordinate.parse("a.b:c:1:tar.gz:all").path == Path("a/b/c/1/c-1-all.tar.gz")


def test_the_committed_lock_pins_every_root_and_names_no_host() -> None:
    lock = read_lock()
    assert lock.keys() == ROOTS.keys()
    for name, roots in ROOTS.items():
        coordinates = {str(artifact.coordinate) for artifact in lock[name]}
        assert set(roots) <= coordinates
        assert all(re.fullmatch(r"[0-9a-f]{64}", artifact.sha256) for artifact in lock[name])
    assert "://" not in artifacts.LOCK_FILE.read_text()


def test_kafka_is_pinned_in_one_version() -> None:
    # resolved together with log4j's managed versions, kafka-clients came out older than the broker
    kafka = {a.coordinate.version for a in read_lock()["kafka"] if a.coordinate.group == "org.apache.kafka"}
    assert kafka == {Coordinate.parse(ROOTS["kafka"][0]).version}


def test_a_damaged_lock_is_told(tmp_path: Path) -> None:
    path = tmp_path / "artifacts.lock"
    for text in ("{", "[]", '{"kafka": [{"coordinate": "a:b:c"}]}'):
        path.write_text(text)
        with pytest.raises(StackError, match="lock of the JVM artifacts"):
            read_lock(path)
