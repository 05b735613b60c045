"""JVM artifacts, pinned by coordinate and SHA-256 in `artifacts.lock`.

`jgo`'s pure-Python resolver finds and downloads them, no Maven is needed. A download lands in a staging
folder, is checked against the lock, and only then moves (atomically) into the cache, so that nothing
unverified or half-written is ever used. Every use checks the digest again. With a full cache there is no
network access. `python -m stack.artifacts lock` resolves the roots anew and rewrites the lock.
"""

import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock as Mutex
from typing import Any

from filelock import FileLock

from core.errors import StackError

LOCK_FILE = Path(__file__).with_name("artifacts.lock")
PARALLEL_DOWNLOADS = 6
TIMEOUT_S = 60

# What each set is resolved from; everything else in the lock follows from these.
ROOTS: dict[str, tuple[str, ...]] = {
    "kafka": ("org.apache.kafka:kafka_2.13:4.2.1", "org.apache.kafka:kafka-tools:4.2.1"),
    # Kafka logs through SLF4J 1.7 and ships the binding only in its tarball; without it the log is empty.
    # A set of its own: resolved together, log4j's managed versions would bring an older kafka-clients.
    "kafka-logging": ("org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",),
    # What reads our messages in Kafka's own console consumer; fetched when somebody wants that.
    "kafka-avro": ("io.apicurio:apicurio-registry-avro-serde-kafka:3.1.7",),
    "registry": ("io.apicurio:apicurio-registry-app:3.3.3:tar.gz:all",),
    "flink-connectors": (
        "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",
        "org.apache.flink:flink-sql-avro-confluent-registry:2.3.0",
    ),
    # The bundled runtime has no javac; the few Java classes that Flink needs of us are compiled with this.
    "java-compiler": ("org.eclipse.jdt:ecj:3.40.0",),
}

BytesSeen = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while a set is downloaded."""


@dataclass(frozen=True)
class Coordinate:
    """`group:artifact:version`, and `:packaging:classifier` where the file is not the plain jar."""

    group: str
    artifact: str
    version: str
    packaging: str = "jar"
    classifier: str = ""

    @classmethod
    def parse(cls, text: str) -> "Coordinate":
        parts = text.split(":")
        if len(parts) not in (3, 5) or not all(parts):
            raise StackError(
                f"{text!r} is no coordinate",
                where=LOCK_FILE.name,
                mend="write group:artifact:version or group:artifact:version:packaging:classifier",
            )
        return cls(*parts)

    @property
    def filename(self) -> str:
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{classifier}.{self.packaging}"

    @property
    def path(self) -> Path:
        """Relative path in the cache, as in a Maven repository."""
        return Path(*self.group.split("."), self.artifact, self.version, self.filename)

    def __str__(self) -> str:
        short = f"{self.group}:{self.artifact}:{self.version}"
        plain = self.packaging == "jar" and not self.classifier
        return short if plain else f"{short}:{self.packaging}:{self.classifier}"


@dataclass(frozen=True)
class Artifact:
    """One pinned file. `size` is in bytes and serves progress only; `sha256` decides."""

    coordinate: Coordinate
    sha256: str
    size: int


def read_lock(path: Path = LOCK_FILE) -> dict[str, tuple[Artifact, ...]]:
    """The pinned sets by name. Raises `StackError` when the file is missing or damaged."""
    try:
        content = json.loads(path.read_text())
        return {
            name: tuple(
                Artifact(Coordinate.parse(row["coordinate"]), str(row["sha256"]), int(row["size"]))
                for row in rows
            )
            for name, rows in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(
            "the lock of the JVM artifacts cannot be read", where=f"{path}: {error}", mend="restore the file"
        ) from error


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known_digest(path: Path) -> str:
    """`sha256_of`, once per process for a file that has not been touched since (200 MB take a second)."""
    found = path.stat()
    return _digest_once(path, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1024)
def _digest_once(path: Path, inode: int, size: int, modified_ns: int) -> str:
    del inode, size, modified_ns
    return sha256_of(path)


class ArtifactCache:
    """Verified artifacts below `folder`. Safe for several processes at once (a lock file serialises them)."""

    def __init__(self, folder: Path, lock: dict[str, tuple[Artifact, ...]] | None = None) -> None:
        self.folder = folder / "artifacts"
        self.lock = read_lock() if lock is None else lock

    def fetch(self, name: str, seen: BytesSeen | None = None) -> tuple[Path, ...]:
        """Paths of all files of the set, downloaded where missing, every digest checked.

        Raises `StackError` when a file cannot be had or has another digest than the lock.
        """
        artifacts = self._set(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            missing = [artifact for artifact in artifacts if not self._at(artifact).exists()]
            if missing:
                self._download(missing, seen)
        return self.verified(name)

    def missing(self, name: str) -> tuple[Artifact, ...]:
        """What a fetch would download."""
        return tuple(artifact for artifact in self._set(name) if not self._at(artifact).exists())

    def verified(self, name: str) -> tuple[Path, ...]:
        """Paths of the set, from the cache only. Raises `StackError` on a missing or altered file."""
        artifacts = self._set(name)
        for artifact in artifacts:
            path = self._at(artifact)
            if not path.exists():
                raise StackError(
                    f"{artifact.coordinate} is not in the cache", where=str(path), mend="run `millstream up`"
                )
        with ThreadPoolExecutor(2) as pool:
            digests = list(pool.map(lambda artifact: _known_digest(self._at(artifact)), artifacts))
        for artifact, found in zip(artifacts, digests, strict=True):
            if found != artifact.sha256:
                raise _wrong_digest(
                    artifact, found, self._at(artifact), "delete this file; it is fetched anew"
                )
        return tuple(self._at(artifact) for artifact in artifacts)

    def unpacked(self, name: str) -> Path:
        """The folder of a set that is one `tar.gz`, unpacked once from the verified file."""
        (archive,) = self.verified(name)
        digest = self._set(name)[0].sha256
        target = self.folder / "unpacked" / f"{name}-{digest[:16]}"
        with FileLock(self.folder / ".lock"):
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as staging:
                    content = Path(staging) / "content"
                    with tarfile.open(archive) as tar:
                        tar.extractall(content, filter="data")
                    content.rename(target)
        return target

    def _set(self, name: str) -> tuple[Artifact, ...]:
        if name not in self.lock:
            raise StackError(
                f"no artifacts are pinned for {name!r}",
                where=LOCK_FILE.name,
                mend="run `python -m stack.artifacts lock`",
            )
        return self.lock[name]

    def _at(self, artifact: Artifact) -> Path:
        return self.folder / artifact.coordinate.path

    def _download(self, missing: list[Artifact], seen: BytesSeen | None) -> None:
        total, counted, mutex = sum(artifact.size for artifact in missing), [0], Mutex()

        def count(size: int) -> None:
            with mutex:
                counted[0] += size
                if seen:
                    seen(counted[0], total)

        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".staging-") as staging:
            downloads = Downloads(Path(staging), count)

            def get(artifact: Artifact) -> None:
                path = downloads.get(artifact.coordinate)
                found = sha256_of(path)
                if found != artifact.sha256:
                    raise _wrong_digest(artifact, found, path, "do not use it; check the mirror in use")
                target = self._at(artifact)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)

            pool = ThreadPoolExecutor(PARALLEL_DOWNLOADS)
            try:
                for _ in pool.map(get, missing):
                    pass
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _wrong_digest(artifact: Artifact, found: str, path: Path, mend: str) -> StackError:
    return StackError(
        f"{artifact.coordinate} has the wrong digest and is refused: pinned {artifact.sha256}, found {found}",
        where=str(path),
        mend=mend,
        code="wrong_digest",
    )


class Downloads:
    """`jgo` behind one door: coordinates in, files out; its errors become `StackError`."""

    def __init__(self, folder: Path, count: Callable[[int], None] | None = None) -> None:
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext, PythonResolver

        @contextmanager
        def progress(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
            yield count or (lambda size: None)

        mirrors = GlobalSettings.load().repositories or None  # a mirror is configured as for jgo itself
        self.context = MavenContext(
            resolver=PythonResolver(progress_callback=progress),
            repo_cache=folder,
            remote_repos=mirrors,
            timeout=TIMEOUT_S,
        )

    def get(self, coordinate: Coordinate) -> Path:
        for attempt in (1, 2, 3):
            try:
                file = (
                    self.context.project(coordinate.group, coordinate.artifact)
                    .at_version(coordinate.version)
                    .artifact(coordinate.classifier, coordinate.packaging)
                )
                return Path(file.resolve())
            except Exception as error:
                partial = self.context.repo_cache / coordinate.path
                partial.unlink(missing_ok=True)
                if attempt == 3:
                    raise StackError(
                        f"{coordinate} cannot be downloaded: {error}",
                        where="download of JVM artifacts",
                        mend="check the network (or the mirror in jgo's configuration) and run it again",
                    ) from error
        raise StackError(f"{coordinate} cannot be downloaded")

    def resolve(self, roots: tuple[str, ...]) -> list[Coordinate]:
        """The roots and all that they need at run time, sorted."""
        plain = [Coordinate.parse(root) for root in roots]
        archives = [root for root in plain if root.packaging != "jar"]
        jars = [root for root in plain if root.packaging == "jar"]
        found = set(archives)
        if jars:
            inputs, transitive = self.context.resolver.resolve(
                [self.context.create_dependency(str(root)) for root in jars]
            )
            dependencies: list[Any] = [*inputs, *transitive]
            found |= {
                Coordinate(d.groupId, d.artifactId, d.version, d.type, d.classifier)
                for d in dependencies
                if d.scope in (None, "compile", "runtime") and not d.optional
            }
        return sorted(found, key=str)


def write_lock(path: Path = LOCK_FILE, roots: dict[str, tuple[str, ...]] | None = None) -> None:
    """Resolve the roots, download every file and pin what was found."""
    with tempfile.TemporaryDirectory(prefix="millstream-lock-") as staging:
        downloads = Downloads(Path(staging))
        sections = []
        for name, coordinates in (roots or ROOTS).items():
            found = downloads.resolve(coordinates)
            with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
                files = list(pool.map(downloads.get, found))
            rows = [
                json.dumps(
                    {
                        "coordinate": str(coordinate),
                        "sha256": sha256_of(file),
                        "size": file.stat().st_size,
                    }
                )
                for coordinate, file in zip(found, files, strict=True)
            ]
            sections.append(f'  "{name}": [\n    ' + ",\n    ".join(rows) + "\n  ]")
        written = path.with_suffix(".new")
        written.write_text("{\n" + ",\n".join(sections) + "\n}\n")
        shutil.move(written, path)


if __name__ == "__main__":
    if sys.argv[1:] != ["lock"]:
        sys.exit("usage: python -m stack.artifacts lock")
    write_lock()
    print(f"{LOCK_FILE}: {sum(len(rows) for rows in read_lock().values())} artifacts pinned")
