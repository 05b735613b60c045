"""One behaviour of every registry: the folder, MLflow in a file, MLflow behind a server."""

import itertools
from collections.abc import Iterator

import pytest

from core.errors import InvalidInput, UnknownName
from models.load import load
from models.store import CHALLENGER, CHAMPION, PREVIOUS, STAGING, ModelStore, Registry
from tests.models import made

_COUNT = itertools.count()


@pytest.fixture(params=["folder", "local", "server"])
def any_registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    match request.param:
        case "folder":
            yield ModelStore(request.getfixturevalue("tmp_path") / "models", clock=made.CLOCK)
        case "local":
            yield request.getfixturevalue("registry")
        case _:
            yield request.getfixturevalue("of_server")("here")


@pytest.fixture
def name() -> str:
    """A model that no other test has."""
    return f"small-{next(_COUNT)}"


def test_what_was_published_is_read_back(any_registry: Registry, name: str, files: dict[str, bytes]) -> None:
    stored = any_registry.publish(name, files, made.DESCRIPTION)
    assert (stored.name, stored.version) == (name, "1")
    again = any_registry.resolve(name, "1")
    assert {file: again.read(file) for file in files} == files
    assert again.manifest == stored.manifest
    assert again.manifest.description == made.DESCRIPTION
    assert name in any_registry.names()
    assert any_registry.versions(name) == ["1"]
    assert load(again).version == "1"


def test_versions_count_up_and_no_alias_moves(
    any_registry: Registry, name: str, files: dict[str, bytes]
) -> None:
    for _ in range(11):
        any_registry.publish(name, files, made.DESCRIPTION)
    assert any_registry.versions(name) == [str(number) for number in range(1, 12)]
    assert any_registry.aliases(name) == {}


def test_the_champion_before_becomes_previous(
    any_registry: Registry, name: str, files: dict[str, bytes]
) -> None:
    for _ in range(3):
        any_registry.publish(name, files, made.DESCRIPTION)
    any_registry.set_alias(name, CHAMPION, "1")
    assert any_registry.aliases(name) == {CHAMPION: "1"}
    any_registry.set_alias(name, CHALLENGER, "2")
    any_registry.set_alias(name, CHAMPION, "2")
    assert any_registry.aliases(name) == {CHAMPION: "2", PREVIOUS: "1", CHALLENGER: "2"}
    any_registry.set_alias(name, CHAMPION, "2")
    assert any_registry.aliases(name)[PREVIOUS] == "1", "the same champion again changes nothing"
    any_registry.set_alias(name, STAGING, "3")
    assert any_registry.aliases(name)[PREVIOUS] == "1"
    any_registry.set_alias(name, CHAMPION, "1")
    assert any_registry.aliases(name) == {CHAMPION: "1", PREVIOUS: "2", CHALLENGER: "2", STAGING: "3"}
    assert any_registry.resolve(name).version == "1"
    assert any_registry.resolve(name, PREVIOUS).version == "2"


def test_the_nearest_name_is_suggested(any_registry: Registry, name: str, files: dict[str, bytes]) -> None:
    any_registry.publish(name, files, made.DESCRIPTION)
    any_registry.set_alias(name, CHAMPION, "1")
    with pytest.raises(UnknownName, match=f"did you mean '{name}'"):
        any_registry.resolve(name[:-1] + "x" + name[-1])
    with pytest.raises(UnknownName, match="model version '9'"):
        any_registry.resolve(name, "9")
    with pytest.raises(UnknownName, match="did you mean 'champion'"):
        any_registry.resolve(name, "champio")
    with pytest.raises(UnknownName, match="model version '9'"):
        any_registry.set_alias(name, CHAMPION, "9")
    assert any_registry.versions("nobody-has-this") == []
    assert any_registry.aliases("nobody-has-this") == {}


@pytest.mark.parametrize("bad", ["../small", "/tmp", "", "..", "Small", "a" * 65, "a\n", "a'b", "a%2f"])
def test_a_name_that_is_a_path_is_refused(
    any_registry: Registry, name: str, files: dict[str, bytes], bad: str
) -> None:
    for attempt in (
        lambda: any_registry.resolve(bad),
        lambda: any_registry.resolve(name, bad),
        lambda: any_registry.versions(bad),
        lambda: any_registry.aliases(bad),
        lambda: any_registry.publish(bad, files, made.DESCRIPTION),
        lambda: any_registry.set_alias(name, bad, "1"),
    ):
        with pytest.raises(InvalidInput):
            attempt()


def test_a_version_without_its_parts_is_refused(
    any_registry: Registry, name: str, files: dict[str, bytes]
) -> None:
    for lacking in ("model.onnx", "signature.json", "golden.arrow"):
        rest = {file: data for file, data in files.items() if file != lacking}
        with pytest.raises(InvalidInput, match=lacking):
            any_registry.publish(name, rest, made.DESCRIPTION)
    assert any_registry.versions(name) == []
