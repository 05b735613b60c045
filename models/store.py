"""The model store: one folder per version, published at once or not at all.

    <root>/<name>/<version>/    model.onnx, booster.ubj, signature.json, golden.arrow, manifest.json
    <root>/<name>/champion      an alias: which version, and the SHA-256 of its manifest

Versions are numbers as text, counted up. A version never changes after it was published; aliases move.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from core.clock import Clock, SystemClock
from core.errors import InvalidInput, ModelRefused, UnknownName
from core.ids import digest
from core.settings import settings
from models import manifest as manifests
from models.manifest import Description, FileEntry, Manifest

MODEL, BOOSTER, SIGNATURE, GOLDEN, MANIFEST = (
    "model.onnx", "booster.ubj", "signature.json", "golden.arrow", "manifest.json",
)  # fmt: skip
CHAMPION = "champion"
REQUIRED = (MODEL, SIGNATURE, GOLDEN)
MAX_FILE_BYTES = 2 * 1024**3
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_FILE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_PUBLISH_ATTEMPTS = 50


class _Alias(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str
    manifest_sha256: str


@dataclass(frozen=True)
class StoredModel:
    """A version in the store, its manifest read but its files not yet verified."""

    folder: Path
    manifest: Manifest

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
        """The bytes of a file, verified against the manifest; raises ModelRefused."""
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
        found = digest(data)
        if found != entry.sha256:
            raise _refused(
                f"{file} has SHA-256 {found[:12]}..., the manifest says {entry.sha256[:12]}...", self.where
            )
        return data


class ModelStore:
    """Models in a folder. Many processes may read and publish at the same time."""

    def __init__(self, root: Path, *, clock: Clock | None = None) -> None:
        self.root = root
        self._clock = clock or SystemClock()

    @classmethod
    def default(cls) -> "ModelStore":
        """The store inside the data folder of the settings."""
        return cls(settings().root / "models")

    def names(self) -> list[str]:
        return sorted(path.name for path in _folders(self.root) if _NAME.fullmatch(path.name))

    def versions(self, name: str) -> list[str]:
        """The published versions, oldest first; none when there is no such model."""
        found = (path.name for path in _folders(self._folder(name)) if _VERSION.fullmatch(path.name))
        return sorted(found, key=int)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to version."""
        folder = self._folder(name)
        if not folder.is_dir():
            return {}
        files = sorted(
            path.name for path in folder.iterdir() if path.is_file() and _NAME.fullmatch(path.name)
        )
        return {alias: self._alias(name, alias).version for alias in files}

    def publish(self, name: str, files: Mapping[str, bytes], description: Description) -> StoredModel:
        """Write a new version, complete or not at all; no alias moves. Raises InvalidInput."""
        missing = [file for file in REQUIRED if file not in files]
        if missing:
            raise InvalidInput(
                f"no {', '.join(missing)}", where=f"model {name}", mend="publish them together"
            )
        for file in files:
            if not _FILE.fullmatch(file) or file == MANIFEST:
                raise InvalidInput(f"file name {file!r}", where=f"model {name}", mend="use a plain name")
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".publish-", dir=folder))
        try:
            for file, data in files.items():
                _write(staged / file, data)
            for _ in range(_PUBLISH_ATTEMPTS):
                version = str(max((int(v) for v in self.versions(name)), default=0) + 1)
                manifest = Manifest(
                    name=name,
                    version=version,
                    created_at=self._clock.now(),
                    files={file: FileEntry(digest(data), len(data)) for file, data in sorted(files.items())},
                    description=description,
                )
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
        path = folder / MANIFEST
        if not path.is_file():
            known = self.versions(name)
            if not known:
                raise UnknownName("model", name, self.names())
            raise UnknownName("model version", reference, known, where=f"model {name}")
        data = path.read_bytes()
        where = f"model {name} {reference} in {folder}"
        if expected is not None and digest(data) != expected:
            raise _refused("the manifest is not the one that the alias was set on", where)
        manifest = manifests.parse(data, where=where)
        if (manifest.name, manifest.version) != (name, reference):
            raise _refused(f"the manifest is that of {manifest.name} {manifest.version}", where)
        bad = [file for file in manifest.files if not _FILE.fullmatch(file)]
        if bad:
            raise _refused(f"the manifest names a file {bad[0]!r}", where)
        return StoredModel(folder, manifest)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version; readers see the old one or the new one, never neither."""
        _checked(alias, "alias")
        stored = self.resolve(name, version)
        value = _Alias(stored.version, digest((stored.folder / MANIFEST).read_bytes()))
        descriptor, temporary = tempfile.mkstemp(prefix=".alias-", dir=self._folder(name))
        os.close(descriptor)
        _write(Path(temporary), msgspec.json.encode(value))
        os.replace(temporary, self._folder(name) / alias)

    def _alias(self, name: str, alias: str) -> _Alias:
        path = self._folder(name) / _checked(alias, "alias")
        if not path.is_file():
            if not self.versions(name):
                raise UnknownName("model", name, self.names())
            raise UnknownName("model alias", alias, self.aliases(name), where=f"model {name}")
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Alias)
        except msgspec.DecodeError as error:
            raise _refused(f"the alias {alias!r} cannot be read: {error}", f"model {name}") from error

    def _folder(self, name: str) -> Path:
        return self.root / _checked(name, "model")


def _checked(name: str, kind: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{kind} name {name!r}", mend="use up to 64 of a-z, 0-9, _ and -, beginning with a letter"
        )
    return name


def _folders(path: Path) -> Iterable[Path]:
    return [child for child in path.iterdir() if child.is_dir()] if path.is_dir() else []


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _refused(what: str, where: str) -> ModelRefused:
    return ModelRefused(what, where=where, mend="choose another version, or train and publish again")
