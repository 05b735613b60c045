"""The model store: one folder per version, there at once or not at all.

    <root>/<name>/<version>/    model.onnx, booster.ubj, signature.json, golden.arrow, manifest.json
    <root>/<name>/champion      an alias: which version, and the SHA-256 of its manifest

Versions are numbers as text, counted up. A version never changes after it was published; aliases move.

It is the verified local cache of the model registry (`models.registry`), which keeps versions and aliases in
it with `keep` and `point`; and, with `publish` and `set_alias`, a registry of its own where there is no
other: for a benchmark, a test, a folder of models that is carried by hand. Not both on one folder.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec
from filelock import FileLock

from core.clock import Clock, SystemClock
from core.errors import InvalidInput, ModelRefused, Unavailable, UnknownName
from core.ids import digest
from core.structs import ready
from core.telemetry.log import logger
from models import manifest as manifests
from models.manifest import Description, FileEntry, Manifest

_LOG = logger("models.store")
MODEL, BOOSTER, SIGNATURE, GOLDEN, MANIFEST = (
    "model.onnx", "booster.ubj", "signature.json", "golden.arrow", "manifest.json",
)  # fmt: skip
CHAMPION, CHALLENGER, STAGING, PREVIOUS = "champion", "challenger", "staging", "previous"
ALIASES = (CHAMPION, CHALLENGER, STAGING, PREVIOUS)
REQUIRED = (MODEL, SIGNATURE, GOLDEN)
MAX_FILE_BYTES = 2 * 1024**3
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_FILE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_PUBLISH_ATTEMPTS = 50
_LOCK = ".lock"


class Resolver(Protocol):
    """What a reader of models asks for."""

    def resolve(self, name: str, reference: str = CHAMPION) -> "StoredModel":
        """See `ModelStore.resolve`."""
        ...


class Registry(Resolver, Protocol):
    """Versions of models and the aliases on them: a folder (`ModelStore`) or MLflow (`models.registry`)."""

    def names(self) -> list[str]: ...

    def versions(self, name: str) -> list[str]: ...

    def aliases(self, name: str) -> dict[str, str]: ...

    def publish(self, name: str, files: Mapping[str, bytes], description: Description) -> "StoredModel": ...

    def set_alias(self, name: str, alias: str, version: str) -> None: ...


@ready
class _Alias(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str
    manifest_sha256: str


@dataclass(frozen=True)
class StoredModel:
    """A version in the store, its manifest read but its files not yet verified. `again` brings a damaged one
    from where it came from, where that is known."""

    folder: Path
    manifest: Manifest
    again: Callable[[], "StoredModel"] | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def where(self) -> str:
        return f"model {self.name} {self.version} in {self.folder}"

    def read(self, file: str) -> bytes:
        """The bytes of a file, verified against the manifest. A damaged one is brought again, once.

        Raises ModelRefused, and Unavailable where it is damaged and cannot be brought now.
        """
        try:
            return self._read(file)
        except ModelRefused as error:
            if self.again is None or file not in self.manifest.files:
                raise
            _LOG.warning("damaged, fetched again", where=self.where, reason=error.what)
            fresh = self.again()
            if fresh.manifest != self.manifest:
                raise Unavailable(
                    "its manifest was damaged too and is whole now", where=self.where, mend="load it again"
                ) from error
            return fresh._read(file)

    def mended_by(self, again: Callable[[], "StoredModel"]) -> "StoredModel":
        return replace(self, again=again)

    def _read(self, file: str) -> bytes:
        entry = self.manifest.files.get(file)
        if entry is None or not _FILE.fullmatch(file):
            raise _refused(f"the manifest has no file {file!r}", self.where)
        path = self.folder / file
        try:
            if path.is_symlink() or not path.is_file():
                raise _refused(f"{file} is missing", self.where)
            size = path.stat().st_size
            if size != entry.size or size > MAX_FILE_BYTES:
                raise _refused(f"{file} has {size} bytes, the manifest says {entry.size}", self.where)
            data = path.read_bytes()
        except OSError as error:
            raise _refused(f"{file} cannot be read: {error.strerror}", self.where) from error
        _check(data, entry, file, self.where)
        return data


class ModelStore:
    """Models in a folder. Many processes may read and publish at the same time."""

    def __init__(self, root: Path, *, clock: Clock | None = None) -> None:
        self.root = root
        self._locks: dict[str, FileLock] = {}
        self._clock = clock or SystemClock()

    def names(self) -> list[str]:
        return sorted(path.name for path in _folders(self.root) if _NAME.fullmatch(path.name))

    def versions(self, name: str) -> list[str]:
        """The published versions, oldest first; none when there is no such model."""
        found = (path.name for path in _folders(self._folder(name)) if _VERSION.fullmatch(path.name))
        return sorted(found, key=int)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to version, without those that cannot be read."""
        folder = self._folder(name)
        if not folder.is_dir():
            return {}
        files = sorted(
            path.name for path in folder.iterdir() if path.is_file() and _NAME.fullmatch(path.name)
        )
        found = {}
        for alias in files:
            try:
                found[alias] = self._alias(name, alias).version
            except ModelRefused as error:  # `resolve` refuses it; the others are none the worse for it
                _LOG.warning("an alias cannot be read", model=name, alias=alias, reason=error.what)
        return found

    def publish(self, name: str, files: Mapping[str, bytes], description: Description) -> StoredModel:
        """Write a new version, complete or not at all; no alias moves. Raises InvalidInput."""
        check_files(name, files, description)
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".publish-", dir=folder))
        try:
            for file, data in files.items():
                _write(staged / file, data)
            for _ in range(_PUBLISH_ATTEMPTS):
                version = str(max((int(v) for v in self.versions(name)), default=0) + 1)
                manifest = manifest_of(name, version, files, description, self._clock)
                _write(staged / MANIFEST, manifest.to_json())
                staged.chmod(0o755)
                try:
                    staged.rename(folder / version)  # fails where another process was faster
                except OSError:
                    if not (folder / version).exists():
                        raise
                    continue
                return StoredModel(folder / version, manifest)
            raise InvalidInput(f"model {name} is published by too many at once", mend="try again")
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def resolve(self, name: str, reference: str = CHAMPION) -> StoredModel:
        """A version by its number or by an alias.

        Raises UnknownName for what is not there, InvalidInput for what is no name (paths among them) and
        ModelRefused for a version whose manifest is damaged.
        """
        expected: str | None = None
        if not _VERSION.fullmatch(reference):
            alias = self._alias(name, reference)
            reference, expected = alias.version, alias.manifest_sha256
            if not _VERSION.fullmatch(reference):
                raise _refused(f"an alias names version {reference!r}", f"model {name}")
        folder = self._folder(name) / reference
        data = _bytes_of(folder / MANIFEST)
        if data is None:
            known = self.versions(name)
            if not known:
                raise UnknownName("model", name, self.names())
            raise UnknownName("model version", reference, known, where=f"model {name}")
        where = f"model {name} {reference} in {folder}"
        if expected is not None and digest(data) != expected:
            raise _refused("the manifest is not the one that the alias was set on", where)
        return StoredModel(folder, read_manifest(data, name, reference, where=where))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version; readers see the old one or the new one, never neither. A champion
        that gives way to another version becomes `previous`."""
        checked_name(alias, "alias")
        stored = self.resolve(name, version)
        before = self.aliases(name).get(CHAMPION)
        if alias == CHAMPION and before not in (None, stored.version):
            self.set_alias(name, PREVIOUS, str(before))
        self.point(name, alias, stored.version, digest((stored.folder / MANIFEST).read_bytes()))

    def keep(self, manifest: bytes, files: Mapping[str, bytes]) -> StoredModel:
        """Hold a version that a registry gave, as it is: complete or not at all, once however many processes
        bring it. Another version of that name and number, of another registry, gives way.

        Raises ModelRefused for a file that is not what the manifest says, and leaves nothing then.
        """
        stated = manifests.parse(manifest, where="model registry")
        name, version = checked_name(stated.name, "model"), stated.version
        if not _VERSION.fullmatch(version):
            raise _refused(f"a manifest of version {version!r}", f"model {name}")
        where = f"model {name} {version}"
        read_manifest(manifest, name, version, where=where)
        if sorted(files) != sorted(stated.files):
            raise _refused(f"files {sorted(files)}, the manifest says {sorted(stated.files)}", where)
        for file, data in files.items():
            _check(data, stated.files[file], file, where)
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        final, staged, replaced = folder / version, folder / f".keep-{version}", folder / f".old-{version}"
        with self.fetching(name):  # the system frees it when its holder is killed
            if not self.intact(name, version, digest(manifest)):
                shutil.rmtree(staged, ignore_errors=True)  # of a holder that was killed
                shutil.rmtree(replaced, ignore_errors=True)
                staged.mkdir()
                for file, data in {**files, MANIFEST: manifest}.items():
                    _write(staged / file, data)
                if final.exists():
                    final.rename(replaced)
                staged.rename(final)
                shutil.rmtree(replaced, ignore_errors=True)
        return StoredModel(final, stated)

    def fetching(self, name: str) -> FileLock:
        """A lock over all processes, held while versions of a model are brought; whoever has it may take it
        again."""
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        return self._locks.setdefault(name, FileLock(folder / _LOCK))

    def holds(self, name: str, version: str, manifest_sha256: str | None = None) -> bool:
        """Whether that version is here; with a digest: whether its manifest has it."""
        if not _VERSION.fullmatch(version):
            return False
        data = _bytes_of(self._folder(name) / version / MANIFEST)
        return data is not None and (manifest_sha256 is None or digest(data) == manifest_sha256)

    def intact(self, name: str, version: str, manifest_sha256: str | None = None) -> bool:
        """Whether it is here (see `holds`) and every file is what its manifest says."""
        if not self.holds(name, version, manifest_sha256):
            return False
        try:
            stored = self.resolve(name, version)
            for file in stored.manifest.files:
                stored.read(file)
        except ModelRefused:
            return False
        return True

    def point(self, name: str, alias: str, version: str, manifest_sha256: str) -> None:
        """Point an alias at a version that a registry has; it need not be here yet."""
        checked_name(alias, "alias")
        if not _VERSION.fullmatch(version):
            raise InvalidInput(f"version {version!r}", where=f"model {name}", mend="versions are numbers")
        self._folder(name).mkdir(parents=True, exist_ok=True)
        value = _Alias(version, manifest_sha256)
        descriptor, temporary = tempfile.mkstemp(prefix=".alias-", dir=self._folder(name))
        os.close(descriptor)
        _write(Path(temporary), msgspec.json.encode(value))
        os.replace(temporary, self._folder(name) / alias)

    def unpoint(self, name: str, alias: str) -> None:
        """Forget an alias that a registry has no more."""
        (self._folder(name) / checked_name(alias, "alias")).unlink(missing_ok=True)

    def pointer(self, name: str, alias: str) -> str | None:
        """The version that an alias points at, whether it is here or not; None without the alias."""
        path = self._folder(name) / checked_name(alias, "alias")
        return self._alias(name, alias).version if path.is_file() else None

    def _alias(self, name: str, alias: str) -> _Alias:
        path = self._folder(name) / checked_name(alias, "alias")
        if not path.is_file():
            if not self.versions(name):
                raise UnknownName("model", name, self.names())
            raise UnknownName("model alias", alias, self.aliases(name), where=f"model {name}")
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Alias)
        except msgspec.DecodeError as error:
            raise _refused(f"the alias {alias!r} cannot be read: {error}", f"model {name}") from error

    def _folder(self, name: str) -> Path:
        return self.root / checked_name(name, "model")


def checked_name(name: str, kind: str) -> str:
    """The name of a model or an alias; raises InvalidInput for what is none, a path among them."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{kind} name {name!r}", mend="use up to 64 of a-z, 0-9, _ and -, beginning with a letter"
        )
    return name


def is_version(reference: str) -> bool:
    """Whether it is a version's number and not an alias."""
    return _VERSION.fullmatch(reference) is not None


def check_files(name: str, files: Mapping[str, bytes], description: Description) -> None:
    """Raises InvalidInput unless these files can be a version of that model."""
    where = f"model {name}"
    if description.kind == "llm":
        if files or description.weights is None:
            raise InvalidInput(
                "a language model has weights and no files", where=where, mend="state `weights`, give no file"
            )
        return
    if description.trained_on is None:
        raise InvalidInput("no range of training data", where=where, mend="state `trained_on`")
    missing = [file for file in REQUIRED if file not in files]
    if missing:
        raise InvalidInput(f"no {', '.join(missing)}", where=where, mend="publish them together")
    for file, data in files.items():
        if not _FILE.fullmatch(file) or file == MANIFEST:
            raise InvalidInput(f"file name {file!r}", where=where, mend="use a plain name")
        if len(data) > MAX_FILE_BYTES:
            raise InvalidInput(f"{file} has {len(data)} bytes", where=where, mend=f"at most {MAX_FILE_BYTES}")


def manifest_of(
    name: str, version: str, files: Mapping[str, bytes], description: Description, clock: Clock
) -> Manifest:
    """The manifest of a new version."""
    return Manifest(
        name=name,
        version=version,
        created_at=clock.now(),
        files={file: FileEntry(digest(data), len(data)) for file, data in sorted(files.items())},
        description=description,
    )


def read_manifest(data: bytes, name: str, version: str, *, where: str) -> Manifest:
    """The manifest of that version. Raises ModelRefused when it is another one's, or names a path."""
    manifest = manifests.parse(data, where=where)
    if (manifest.name, manifest.version) != (name, version):
        raise _refused(f"the manifest is that of {manifest.name} {manifest.version}", where)
    bad = [file for file in manifest.files if not _FILE.fullmatch(file) or file == MANIFEST]
    if bad:
        raise _refused(f"the manifest names a file {bad[0]!r}", where)
    return manifest


def _check(data: bytes, entry: FileEntry, file: str, where: str) -> None:
    found = digest(data)
    if found != entry.sha256:
        raise _refused(f"{file} has SHA-256 {found[:12]}..., the manifest says {entry.sha256[:12]}...", where)


def _bytes_of(path: Path) -> bytes | None:
    """None where there is no such file, be it only for the moment in which its version is replaced."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _folders(path: Path) -> Iterable[Path]:
    return [child for child in path.iterdir() if child.is_dir()] if path.is_dir() else []


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _refused(what: str, where: str) -> ModelRefused:
    return ModelRefused(what, where=where, mend="choose another version, or train and publish again")
