"""The manifest of a stored model: what belongs to it, where it comes from, how good it was."""

from datetime import datetime
from typing import Literal

import msgspec

from core.errors import ModelRefused
from core.ids import canonical_json, digest
from core.structs import ready


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SHA-256 in hex and size in bytes."""

    sha256: str
    size: int


class Offsets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was read of one partition: from `start`, included, to `end`, not included."""

    topic: str
    partition: int
    start: int
    end: int


class FileReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that data was read from, by name and SHA-256 in hex."""

    name: str
    sha256: str


class DataRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rows a model learned from: event times from `first_at` to `last_at`, both included, and where they
    were read, so that the same rows can be read again: of topics, or of a file."""

    rows: int
    first_at: datetime
    last_at: datetime
    offsets: tuple[Offsets, ...] = ()
    file: FileReference | None = None


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the data is and under which licence it is had."""

    name: str
    licence: str


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The weights of a language model, which a server of its own holds: file, SHA-256 in hex, licence."""

    name: str
    sha256: str
    licence: str


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a publisher states. `views` maps feature views to their versions, `view_digests` to the digests of
    their meaning; `metrics` and `parameters` are free. A version of kind `llm` has no files: it names the
    `weights` that its server holds, and may leave out what they were trained on."""

    data: DataSource
    trained_on: DataRange | None = None
    tested_on: DataRange | None = None
    views: dict[str, int] = {}
    view_digests: dict[str, str] = {}
    metrics: dict[str, float] = {}
    parameters: dict[str, int | float | str] = {}
    libraries: dict[str, str] = {}
    kind: Literal["tabular", "llm"] = "tabular"
    weights: Weights | None = None


@ready
class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`files` holds every file of the version but the manifest itself."""

    name: str
    version: str
    created_at: datetime
    files: dict[str, FileEntry]
    description: Description
    format: int = 1

    @property
    def digest(self) -> str:
        """The identity of the model: SHA-256 over names and digests of its files."""
        return digest(canonical_json({name: entry.sha256 for name, entry in self.files.items()}))

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def parse(data: bytes, *, where: str) -> Manifest:
    """Raises ModelRefused when it is no manifest of this format."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise ModelRefused(
            f"the manifest cannot be read: {error}", where=where, mend="train and publish the model again"
        ) from error
    if manifest.format != 1:
        raise ModelRefused(
            f"manifest format {manifest.format}; this version reads 1", where=where, mend="update millstream"
        )
    return manifest
