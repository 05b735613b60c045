"""Settings: environment over file over default, and every value can tell where it comes from."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.settings import Settings, with_origins


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MILLSTREAM_")]:
        monkeypatch.delenv(name)
    return tmp_path


def origins(settings: Settings) -> dict[str, tuple[object, str]]:
    return {name: (value, origin) for name, value, origin in with_origins(settings)}


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "millstream.toml").write_text("[kafka]\nport = 7001\n[redis]\nport = 7002\n")
    monkeypatch.setenv("MILLSTREAM_KAFKA__PORT", "7003")
    found = origins(Settings())
    assert found["kafka.port"] == (7003, "environment MILLSTREAM_KAFKA__PORT")
    assert found["redis.port"] == (7002, "millstream.toml")
    assert found["kafka.controller_port"] == (9093, "default")


def test_an_address_makes_a_service_external(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().kafka.address == "127.0.0.1:9092"
    monkeypatch.setenv("MILLSTREAM_KAFKA__BOOTSTRAP", "broker:9092")
    assert Settings().kafka.address == "broker:9092"


def test_a_value_out_of_bounds_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_WORKER__WAIT_MS", "501")
    with pytest.raises(ValidationError, match="500"):
        Settings()


def test_a_misspelt_setting_of_a_section_is_refused(folder: Path) -> None:
    (folder / "millstream.toml").write_text("[kafka]\nprot = 1\n")
    with pytest.raises(ValidationError, match="prot"):
        Settings()
