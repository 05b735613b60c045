"""Admission: what wants to become a version is loaded as a worker would, before anybody can see it."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from core.clock import Clock
from core.errors import InvalidInput, ModelRefused
from models import manifest as manifests
from models.manifest import Description, Manifest
from models.registry.contents import MAX_TEXT_BYTES, OURS, check_onnx, refused
from models.store import MANIFEST, MAX_FILE_BYTES, MODEL, ModelStore


def admit(name: str, files: Mapping[str, bytes], description: Description, *, clock: Clock) -> None:
    """Raises ModelRefused for files that would not load: no whole ONNX, a signature that contradicts itself
    or the model, golden outputs that are not the model's."""
    if description.kind == "llm":
        return
    from models.load import load

    where = f"candidate for model {name}"
    check_onnx(files[MODEL], where=where)
    with tempfile.TemporaryDirectory(prefix="millstream-candidate-") as folder:
        try:
            load(ModelStore(Path(folder), clock=clock).publish(name, files, description))
        except ModelRefused as error:
            raise ModelRefused(error.what, where=where, mend=error.mend) from error


def read_folder(folder: Path, *, without: str | None = None) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and files of a folder, each as the manifest says, except the file `without`, which comes from
    elsewhere. Raises InvalidInput for a folder that is none, ModelRefused for all else."""
    where = str(folder)
    if not folder.is_dir():
        raise InvalidInput(f"no folder {folder}", mend="name the folder with the model's files")
    manifest = manifests.parse(_read(folder, MANIFEST, MAX_TEXT_BYTES, where), where=where)
    names = [file for file in manifest.files if file != without]
    strangers = sorted(set(names) - OURS)
    if strangers:
        raise refused(f"the manifest names {strangers[0]!r}", where)
    files = {file: _read(folder, file, manifest.files[file].size, where) for file in names}
    if without is None:
        verified(manifest, files, where=where)
    return manifest, files


def verified(manifest: Manifest, files: Mapping[str, bytes], *, where: str) -> Mapping[str, bytes]:
    """The files, when they are those of the manifest; raises ModelRefused."""
    from core.ids import digest

    if set(files) != set(manifest.files):
        raise refused(f"files {sorted(files)}, the manifest says {sorted(manifest.files)}", where)
    for file, data in files.items():
        found, stated = digest(data), manifest.files[file].sha256
        if found != stated:
            raise refused(f"{file} has SHA-256 {found[:12]}..., the manifest says {stated[:12]}...", where)
    return files


def _read(folder: Path, file: str, at_most: int, where: str) -> bytes:
    try:
        descriptor = os.open(folder / file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        what = "it is unsigned: there is no manifest.json" if file == MANIFEST else f"{file} is missing"
        raise refused(what, where) from error
    except OSError as error:
        raise refused(f"{file} cannot be read: {error.strerror}", where) from error
    with os.fdopen(descriptor, "rb") as opened:
        data = opened.read(min(at_most, MAX_FILE_BYTES) + 1)
    if len(data) > at_most:
        raise refused(f"{file} has more than {at_most} bytes", where)
    return data
