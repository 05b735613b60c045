"""What others put into MLflow: their client reads ours, and only what is safe of theirs is taken."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from core.errors import InvalidInput, MillstreamError, ModelRefused, UnknownName
from models.encode import Encoder
from models.load import load
from models.manifest import DataSource, Description, FileEntry, Weights
from models.registry import ModelRegistry
from models.registry.contents import contents
from models.registry.known import SIGNED
from models.store import BOOSTER, CHAMPION, GOLDEN, MANIFEST, MODEL, SIGNATURE
from tests.mlflow_fixture import Server
from tests.models import made


def client_of(registry: ModelRegistry) -> Any:
    """MLflow's own client on the same store, with nothing of ours in between."""
    from mlflow.tracking import MlflowClient

    uri = registry._connection.place.uri
    return MlflowClient(uri, uri)


@pytest.fixture
def folder(tmp_path: Path, files: dict[str, bytes], registry: ModelRegistry) -> Path:
    """The files of a good version, signed, as somebody hands them on."""
    made_here = tmp_path / "handed"
    shutil.copytree(registry.publish("origin", files, made.DESCRIPTION).folder, made_here)
    return made_here


def logged(registry: ModelRegistry, model: bytes, name: str = "theirs") -> str:
    """A version that MLflow's own client logged and registered; returns its folder."""
    import mlflow
    import mlflow.onnx

    mlflow.set_tracking_uri(registry._connection.place.uri)
    mlflow.set_experiment("millstream")
    with mlflow.start_run():
        mlflow.onnx.log_model(
            onnx.load_model_from_string(model),
            name="m",
            registered_model_name=name,
            pip_requirements=["onnx"],
        )
    return registry._source(name, "1")


@pytest.mark.parametrize("where", ["local", "server"])
def test_mlflows_own_client_loads_what_we_registered(
    request: pytest.FixtureRequest, files: dict[str, bytes], where: str
) -> None:
    import mlflow
    import mlflow.onnx

    registry: ModelRegistry
    if where == "local":
        registry = request.getfixturevalue("registry")
    else:
        registry = request.getfixturevalue("of_server")("here")
    registry.publish("readable", files, made.DESCRIPTION)
    registry.set_alias("readable", CHAMPION, "1")
    mlflow.set_tracking_uri(registry._connection.place.uri)
    theirs = mlflow.onnx.load_model("models:/readable@champion")
    matrix = Encoder(made.SIGNED).encode(made.rows(500, seed=8))
    session = onnxruntime.InferenceSession(theirs.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: matrix})
    ours = load(registry.resolve("readable"))
    np.testing.assert_allclose(scores, ours.score(matrix), atol=1e-6)  # threads add in another order
    version = client_of(registry).get_model_version("readable", "1")
    assert version.tags["millstream.digest"] == ours.digest
    assert version.tags["millstream.data_licence"] == made.DESCRIPTION.data.licence
    assert msgspec.json.decode(version.tags["millstream.trained_on"])["rows"] == 2_000
    assert msgspec.json.decode(version.tags["millstream.views"]) == {"card_activity": 1}


def test_a_version_of_mlflows_client_is_unsigned_until_it_is_registered(
    registry: ModelRegistry, files: dict[str, bytes], folder: Path
) -> None:
    logged(registry, files[MODEL])
    assert registry.versions("theirs") == []
    assert registry.models()["theirs"].versions["1"].state == "unsigned"
    with pytest.raises(ModelRefused, match="unsigned"):
        registry.resolve("theirs", "1")
    with pytest.raises(ModelRefused, match="unsigned"):
        registry.set_alias("theirs", CHAMPION, "1")
    with pytest.raises(ModelRefused, match=r"no manifest\.json"):
        registry.register_version("theirs", "1")
    stored = registry.register_version("theirs", "1", folder)
    assert (stored.version, registry.versions("theirs")) == ("2", ["2"])
    assert stored.read(MODEL) == Path(registry._source("theirs", "1"), MODEL).read_bytes()
    load(registry.resolve("theirs", "2"))


def test_a_version_with_its_parts_beside_the_model_needs_no_folder(
    registry: ModelRegistry, files: dict[str, bytes], folder: Path
) -> None:
    place = Path(logged(registry, files[MODEL]))
    for file in (SIGNATURE, GOLDEN, BOOSTER, MANIFEST):
        shutil.copy(folder / file, place / file)
    stored = registry.register_version("theirs", "1")
    load(registry.resolve("theirs", stored.version))
    with pytest.raises(UnknownName, match="model version '9'"):
        registry.register_version("theirs", "9")
    with pytest.raises(UnknownName, match="did you mean 'theirs'"):
        registry.register_version("their", "1")
    with pytest.raises(InvalidInput):
        registry.register_version("theirs", "../1")


def _pickle_beside(place: Path) -> None:
    (place / "python_model.pkl").write_bytes(pickle.dumps({"a": 1}))


def _pickle_as_model(place: Path) -> None:
    (place / MODEL).write_bytes(pickle.dumps({"a": 1}))


def _python_flavour(place: Path) -> None:
    text = (place / "MLmodel").read_text()
    (place / "MLmodel").write_text(text.replace("mlflow.onnx", "mlflow.pyfunc.model"))


def _sklearn_flavour(place: Path) -> None:
    text = (place / "MLmodel").read_text()
    (place / "MLmodel").write_text(text.replace("  onnx:", "  sklearn:"))


def _second_flavour(place: Path) -> None:
    text = (place / "MLmodel").read_text()
    (place / "MLmodel").write_text(text.replace("flavors:", "flavors:\n  sklearn: {pickled_model: m.pkl}"))


def _code(place: Path) -> None:
    text = (place / "MLmodel").read_text()
    (place / "MLmodel").write_text(text.replace("code: null", "code: code"))


def _code_folder(place: Path) -> None:
    (place / "code").mkdir()


def _path_in_mlmodel(place: Path) -> None:
    text = (place / "MLmodel").read_text()
    (place / "MLmodel").write_text(text.replace("data: model.onnx", "data: ../../model.onnx"))


def _python_in_yaml(place: Path) -> None:
    (place / "MLmodel").write_text("flavors: !!python/object/apply:os.system ['true']\n")


def _no_mlmodel(place: Path) -> None:
    (place / "MLmodel").unlink()


def _huge_mlmodel(place: Path) -> None:
    os.truncate(place / "MLmodel", 2 * 1024**2)


def _link(place: Path) -> None:
    (place / MODEL).rename(place.parent / "elsewhere.onnx")
    (place / MODEL).symlink_to(place.parent / "elsewhere.onnx")


def _external_data(place: Path) -> None:
    parsed = onnx.load_model_from_string((place / MODEL).read_bytes())
    tensor = parsed.graph.initializer[0]
    tensor.ClearField("int64_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    (place / MODEL).write_bytes(parsed.SerializeToString())


WRONGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pickle beside the model": (_pickle_beside, r"python_model\.pkl"),
    "a pickle in the model's place": (_pickle_as_model, r"SHA-256|no ONNX"),
    "a python model": (_python_flavour, "Python model"),
    "another flavour": (_sklearn_flavour, "no ONNX flavour"),
    "a second flavour": (_second_flavour, "sklearn"),
    "code": (_code, "model file"),
    "a folder of code": (_code_folder, "folder"),
    "a path in MLmodel": (_path_in_mlmodel, "model file"),
    "a python object in MLmodel": (_python_in_yaml, "no ONNX flavour"),
    "no MLmodel": (_no_mlmodel, "no MLmodel"),
    "a huge MLmodel": (_huge_mlmodel, "allowed"),
    "a link": (_link, "link"),
    "data outside the file": (_external_data, r"SHA-256|outside its file|bytes"),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_what_would_run_or_read_something_else_is_refused(
    registry: ModelRegistry, files: dict[str, bytes], folder: Path, wrong: str
) -> None:
    """At registration of another client's version; and of one of ours, when it is fetched."""
    damage, reason = WRONGS[wrong]
    place = Path(logged(registry, files[MODEL]))
    if "code" not in wrong or "code: null" in (place / "MLmodel").read_text():
        damage(place)
        with pytest.raises(ModelRefused, match=reason):
            registry.register_version("theirs", "1", folder)
        assert registry.versions("theirs") == []
    stored = registry.publish("ours", files, made.DESCRIPTION)
    ours = Path(registry.models()["ours"].versions["1"].source)
    text = (ours / "MLmodel").read_text()
    (ours / "MLmodel").write_text(as_theirs(text))
    damage(ours)
    shutil.rmtree(stored.folder)
    with pytest.raises(ModelRefused, match=reason):
        registry.resolve("ours", "1")
    assert not stored.folder.exists()


def as_theirs(text: str) -> str:
    """Our MLmodel in the shape and words of MLflow's own, so that the same damage fits."""
    import yaml

    said = yaml.safe_load(text)
    said["flavors"]["python_function"] = {"loader_module": "mlflow.onnx", "data": "model.onnx"}
    return str(yaml.safe_dump(said))


@pytest.mark.parametrize(
    "source",
    [
        "/etc",
        "file:///etc",
        "artifacts/../../outside",
        "{artifacts}/../..",
        "s3://bucket/model",
        "{artifacts}",
    ],
)
def test_a_source_outside_the_store_is_refused(registry: ModelRegistry, source: str) -> None:
    registry.names()
    artifacts = registry._connection.place.artifacts
    assert artifacts is not None
    artifacts.mkdir(parents=True, exist_ok=True)
    with pytest.raises(ModelRefused, match="outside the store"):
        contents(registry._connection, source.format(artifacts=artifacts), where="test")


def test_a_signed_version_with_its_source_outside_is_refused(
    registry: ModelRegistry, files: dict[str, bytes], folder: Path
) -> None:
    """The signature is right and the files are good: they only lie where nobody looks after them."""
    client = client_of(registry)
    client.create_registered_model("outside")
    client.create_model_version("outside", str(folder), tags={SIGNED: "0" * 64})
    with pytest.raises(ModelRefused, match="outside the store"):
        registry.resolve("outside", "1")
    with pytest.raises(ModelRefused, match="outside the store"):
        registry.register_version("outside", "1")


@pytest.mark.parametrize(
    "source",
    [
        "mlflow-artifacts://elsewhere/1/model", "mlflow-artifacts:/1/../2/model", "/etc", "file:///etc",
        "mlflow-artifacts:/1/%2e%2e/model", "http://elsewhere/model", "mlflow-artifacts:/1/model?a=b",
    ],
)  # fmt: skip
def test_a_source_outside_the_servers_artifacts_is_refused(
    of_server: Callable[[str], ModelRegistry], source: str
) -> None:
    with pytest.raises(ModelRefused, match="outside the server"):
        contents(of_server("here")._connection, source, where="test")


def test_a_pickle_on_the_server_is_refused(
    of_server: Callable[[str], ModelRegistry], mlflow_server: Server, files: dict[str, bytes]
) -> None:
    here = of_server("here")
    here.publish("pickled", files, made.DESCRIPTION)
    run = here.models()["pickled"].versions["1"].run_id
    (place,) = (mlflow_server.folder / "artifacts").rglob(f"{run}/artifacts/model")
    (place / "python_model.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(ModelRefused, match=r"python_model\.pkl"):
        of_server("there").resolve("pickled", "1")


def test_files_are_registered_with_their_manifest(registry: ModelRegistry, folder: Path) -> None:
    stored = registry.register_folder("handed", folder)
    assert (stored.name, stored.version) == ("handed", "1")
    assert stored.manifest.description == made.DESCRIPTION
    load(registry.resolve("handed", "1"))


def _unsigned(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _damaged(folder: Path) -> None:
    data = bytearray((folder / MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / MODEL).write_bytes(bytes(data))


def _signed_pickle(folder: Path) -> None:
    from core.ids import digest

    data = pickle.dumps({"weights": [1.0]})
    (folder / MODEL).write_bytes(data)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    manifest["files"][MODEL] = msgspec.to_builtins(FileEntry(digest(data), len(data)))
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def _linked(folder: Path) -> None:
    (folder / MODEL).rename(folder.parent / "other.onnx")
    (folder / MODEL).symlink_to(folder.parent / "other.onnx")


def _path(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"booster.ubj"', '"../../secret"'))


def _longer(folder: Path) -> None:
    with (folder / MODEL).open("ab") as file:
        file.write(b"\0" * 1024)


def _other_signature(folder: Path) -> None:
    from core.ids import digest

    amount, *rest = made.SIGNED.inputs
    data = msgspec.structs.replace(made.SIGNED, inputs=(*rest, amount)).to_json()
    (folder / SIGNATURE).write_bytes(data)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    manifest["files"][SIGNATURE] = msgspec.to_builtins(FileEntry(digest(data), len(data)))
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_unsigned, "unsigned"),
        (_damaged, "SHA-256"),
        (_signed_pickle, "no ONNX"),
        (_linked, "cannot be read"),
        (_path, "secret"),
        (_longer, "more than"),
        (_other_signature, "golden outputs differ"),
    ],
)
def test_wrong_files_are_not_registered(
    registry: ModelRegistry, folder: Path, change: Callable[[Path], None], reason: str
) -> None:
    change(folder)
    with pytest.raises(MillstreamError, match=reason):
        registry.register_folder("handed", folder)
    assert registry.versions("handed") == []
    assert not registry.cache.holds("handed", "1")


def test_a_language_model_is_its_weights(registry: ModelRegistry, files: dict[str, bytes]) -> None:
    small = Description(
        data=DataSource("the web, filtered", "not stated"),
        kind="llm",
        weights=Weights("small.gguf", "0" * 64, "Apache-2.0"),
    )
    stored = registry.publish("chat", {}, small)
    shutil.rmtree(stored.folder)
    assert registry.resolve("chat", "1").manifest.description == small
    assert registry.models()["chat"].versions["1"].tags["millstream.weights_licence"] == "Apache-2.0"
    with pytest.raises(InvalidInput, match="weights and no files"):
        registry.publish("chat", files, small)
