"""The files of a version in MLflow: which there may be, from where, how large, in which flavour.

Only an ONNX model is ever read. Anything that would run code when MLflow loads it (a pickle, a Python model,
a folder of code), lies outside the store, or points out of it (a link, external data) is refused unread.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import msgspec

from core.errors import ModelRefused
from models.registry.connection import Connection
from models.store import BOOSTER, GOLDEN, MANIFEST, MAX_FILE_BYTES, MODEL, SIGNATURE

MLMODEL = "MLmodel"
FLAVOUR = "onnx"
OURS = frozenset({MODEL, BOOSTER, SIGNATURE, GOLDEN, MANIFEST})
BESIDE = frozenset(
    {
        MLMODEL, "conda.yaml", "python_env.yaml", "requirements.txt", "registered_model_meta",
        "input_example.json", "serving_input_example.json",
    }
)  # fmt: skip
MAX_TEXT_BYTES = 1024 * 1024
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,55}\.onnx")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*")
_MEND = "register an ONNX model, with its files inside the store"


@dataclass(frozen=True)
class Contents:
    """The files under the source of a version. `sizes`: bytes by file name, as they were listed."""

    connection: Connection
    uri: str
    folder: Path | None
    sizes: Mapping[str, int]
    where: str

    def read(self, file: str, *, at_most: int = MAX_FILE_BYTES) -> bytes:
        """The bytes of a listed file. Raises ModelRefused when it is not there, larger, or a link."""
        size = self.sizes.get(file)
        if size is None:
            raise refused(f"no {file}", self.where)
        if size > at_most:
            raise refused(f"{file} has {size} bytes, allowed are {at_most}", self.where)
        data = self._local(file, size) if self.folder is not None else self._remote(file)
        if len(data) != size:
            raise refused(f"{file} has {len(data)} bytes, {size} were listed", self.where)
        return data

    def _local(self, file: str, size: int) -> bytes:
        assert self.folder is not None
        try:
            descriptor = os.open(self.folder / file, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise refused(f"{file} cannot be read: {error.strerror}", self.where) from error
        with os.fdopen(descriptor, "rb") as opened:
            return opened.read(size + 1)

    def _remote(self, file: str) -> bytes:
        with (
            tempfile.TemporaryDirectory(prefix="millstream-model-") as folder,
            self.connection.asking(f"download {file} of {self.where}"),
        ):
            return Path(self.connection.files_of(self.uri).download_artifacts(file, folder)).read_bytes()


def contents(connection: Connection, uri: str, *, where: str) -> Contents:
    """What lies under the source of a version. Raises ModelRefused for a source outside the store, and for a
    folder, a link or a file that has no place in an ONNX model."""
    artifacts = connection.place.artifacts
    folder = None
    if artifacts is not None:
        folder = _inside(uri, artifacts, where)
        sizes = _listed(folder, where)
    else:
        _of_server(uri, where)
        with connection.asking(f"list the files of {where}"):
            sizes = _remote_listed(connection.files_of(uri).list_artifacts(), where)
    strangers = sorted(name for name in sizes if name not in OURS | BESIDE and not _PLAIN.fullmatch(name))
    if strangers:
        raise refused(f"a file {strangers[0]!r}, which no ONNX model has", where)
    return Contents(connection, uri, folder, sizes, where)


def model_file(found: Contents) -> str:
    """The name of the model's file, from `MLmodel`. Raises ModelRefused for every flavour but ONNX."""
    import yaml

    text = found.read(MLMODEL, at_most=MAX_TEXT_BYTES)
    try:
        said = yaml.safe_load(text)
        flavours = dict(said["flavors"])
        onnx = dict(flavours.pop(FLAVOUR))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise refused(f"{MLMODEL} names no ONNX flavour", found.where) from error
    python = flavours.pop("python_function", None)
    if flavours:
        raise refused(f"{MLMODEL} has the flavour {sorted(map(str, flavours))[0]!r}", found.where)
    if python is not None and not (
        isinstance(python, dict)
        and python.get("loader_module") == "mlflow.onnx"
        and not python.get("code")
        and not {"python_model", "cloudpickle_version", "artifacts", "model_code_path"} & python.keys()
    ):
        raise refused(f"{MLMODEL} has a Python model", found.where)
    file = onnx.get("data")
    if onnx.get("code") or not isinstance(file, str) or not _PLAIN.fullmatch(file):
        raise refused(f"{MLMODEL} names the model file {file!r}", found.where)
    return file


def mlmodel(run_id: str, created_at: str) -> bytes:
    """`MLmodel` of a version of ours: JSON, which is YAML."""
    from importlib.metadata import version

    return msgspec.json.format(
        msgspec.json.encode(
            {
                "artifact_path": "model",
                "flavors": {
                    FLAVOUR: {
                        "code": None,
                        "data": MODEL,
                        "onnx_version": version("onnx"),
                        "providers": ["CPUExecutionProvider"],
                    }
                },
                "mlflow_version": version("mlflow"),
                "run_id": run_id,
                "utc_time_created": created_at,
            }
        ),
        indent=1,
    )


def check_onnx(model: bytes, *, where: str) -> None:
    """Raises ModelRefused unless these are the bytes of an ONNX model that is whole in itself."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        parsed = onnx.load_model_from_string(model)
    except (DecodeError, ValueError) as error:
        raise refused("the model file is no ONNX", where) from error
    if not parsed.graph.node:
        raise refused("the model file is no ONNX", where)
    if _outside(parsed, onnx.TensorProto):
        raise refused("the model has data outside its file", where)


def refused(what: str, where: str) -> ModelRefused:
    return ModelRefused(what, where=where, mend=_MEND)


def _outside(message: Any, tensor: Any) -> bool:
    """Whether a tensor anywhere in the model has its data in another file."""
    if isinstance(message, tensor):
        return bool(message.data_location == tensor.EXTERNAL or message.external_data)
    return any(
        _outside(part, tensor)
        for field, value in message.ListFields()
        if field.type == field.TYPE_MESSAGE
        for part in ((value,) if hasattr(value, "ListFields") else value)
    )


def _inside(uri: str, artifacts: Path, where: str) -> Path:
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file") or parsed.netloc or parsed.query or parsed.fragment:
        raise refused(f"the source {uri!r} is outside the store", where)
    folder = Path(unquote(parsed.path) if parsed.scheme else uri)
    root = artifacts.resolve()
    if not folder.is_absolute() or root not in folder.resolve().parents:
        raise refused(f"the source {uri!r} is outside the store", where)
    if not folder.is_dir():
        raise refused("its files are gone", where)
    return folder.resolve()


def _listed(folder: Path, where: str) -> dict[str, int]:
    sizes = {}
    for entry in os.scandir(folder):
        if not entry.is_file(follow_symlinks=False):
            raise refused(f"{entry.name!r} is a link or a folder", where)
        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    return sizes


def _of_server(uri: str, where: str) -> None:
    parsed = urlparse(uri)
    segments = parsed.path.lstrip("/").split("/")
    if (
        parsed.scheme != "mlflow-artifacts"
        or parsed.netloc
        or parsed.query
        or parsed.fragment
        or not all(_SEGMENT.fullmatch(segment) for segment in segments)
    ):
        raise refused(f"the source {uri!r} is outside the server's artifacts", where)


def _remote_listed(entries: Any, where: str) -> dict[str, int]:
    sizes = {}
    for entry in entries:
        if entry.is_dir or "/" in entry.path:
            raise refused(f"{entry.path!r} is a folder", where)
        sizes[str(entry.path)] = int(entry.file_size or 0)
    return sizes
