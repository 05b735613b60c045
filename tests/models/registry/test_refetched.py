"""What is damaged in the cache is brought again by itself, once; damaged in MLflow too, it is refused."""

import itertools
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.errors import ModelRefused, Unavailable, UnknownName
from core.settings import Settings
from models.load import StoredModels, load
from models.registry import Following, ModelRegistry, open_registry
from models.store import CHAMPION, GOLDEN, MANIFEST, MODEL, SIGNATURE
from tests.models import made

pytestmark = pytest.mark.timeout(1200)
ROOT = Path(__file__).parents[3]
WORKER = """
import sys
from pathlib import Path
from core.settings import Settings
from models.load import StoredModels
from models.registry import Following, open_registry
source = StoredModels(Following(open_registry(Settings(home=Path(sys.argv[1])))), "small")
assert source.load(source.champion()).version == "1"
print("mlflow" in sys.modules)
"""


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def published(registry: ModelRegistry, files: dict[str, bytes]) -> Path:
    folder = registry.publish("small", files, made.DESCRIPTION).folder
    registry.set_alias("small", CHAMPION, "1")
    return folder


def test_every_damaged_file_is_brought_again(registry: ModelRegistry, files: dict[str, bytes]) -> None:
    folder = published(registry, files)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for reference in ("1", CHAMPION):
        for file, damage in itertools.product((MODEL, SIGNATURE, GOLDEN, MANIFEST), (flip, cut, Path.unlink)):
            damage(folder / file)
            try:
                model = load(registry.resolve("small", reference), engine="onnx")
            except Unavailable:  # its manifest, readable and wrong, was replaced
                assert file == MANIFEST
                model = load(registry.resolve("small", reference), engine="onnx")
            assert model.version == "1"
            # a manifest that still says the right digests is as good as whole
            if file != MANIFEST:
                assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
            (folder / MANIFEST).write_bytes(whole[MANIFEST])


def test_one_that_is_damaged_in_mlflow_too_is_refused_and_asked_for_once(
    registry: ModelRegistry, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published(registry, files)
    flip(folder / MODEL)
    flip(Path(registry.models()["small"].versions["1"].source) / MODEL)
    asked = []
    bring = ModelRegistry._bring
    monkeypatch.setattr(ModelRegistry, "_bring", lambda *given: (asked.append(1), bring(*given)))
    with pytest.raises(ModelRefused, match=r"SHA-256|no ONNX"):
        load(registry.resolve("small", "1"))
    assert len(asked) == 1


def test_a_worker_has_it_brought_by_another_process(home: Path, files: dict[str, bytes]) -> None:
    registry = open_registry(Settings(home=home))
    folder = published(registry, files)
    flip(folder / MODEL)
    worker = subprocess.run(
        [sys.executable, "-c", WORKER, str(home)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert worker.stdout.split() == ["False"], worker.stderr
    assert (folder / MODEL).read_bytes() == files[MODEL]


def test_what_the_other_process_says_is_what_the_registry_says(
    registry: ModelRegistry, home: Path, files: dict[str, bytes]
) -> None:
    following = Following(open_registry(Settings(home=home)))
    with pytest.raises(UnknownName, match="unknown model 'small'"):
        following.resolve("small", "1")
    folder = published(registry, files)
    shutil.rmtree(folder)
    assert following.resolve("small").read(MODEL) == files[MODEL], "missing, and not damaged: brought too"
    flip(Path(registry.models()["small"].versions["1"].source) / SIGNATURE)
    flip(folder / SIGNATURE)
    with pytest.raises(ModelRefused, match="SHA-256"):
        StoredModels(following, "small").load("1")


def test_many_that_find_the_damage_at_once_get_one_whole_version(
    registry: ModelRegistry, home: Path, files: dict[str, bytes]
) -> None:
    folder = published(registry, files)
    flip(folder / MODEL)
    found: list[object] = []

    def read() -> None:
        try:
            found.append(open_registry(Settings(home=home)).resolve("small", "1").read(MODEL))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert found == [files[MODEL]] * 6
