"""The commands, as someone types them."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.stack_commands import Lines, register, scraped
from core.errors import UnknownName
from stack.state import UnitStatus
from stack.unit import Kind
from tests.stack_fixture import EXTERNAL_ADDRESSES, environment, stack_env

APP = typer.Typer()
register(APP)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    with environment(stack_env(folder), without=EXTERNAL_ADDRESSES):
        yield folder


def run(*words: str, given: str = "") -> str:
    result = CliRunner().invoke(APP, list(words), input=given, catch_exceptions=False)
    return f"{result.exit_code}\n{result.stdout}"


def test_wipe_asks_first(home: Path) -> None:
    (home / "kafka").mkdir(parents=True)
    refused = run("down", "--wipe", given="n\n")
    assert refused.startswith("1")
    assert str(home) in refused
    assert (home / "kafka").exists()
    assert run("down", "--wipe", given="y\n").startswith("0")
    assert not home.exists()


def test_down_without_wipe_keeps_the_data_and_asks_nothing(home: Path) -> None:
    (home / "kafka").mkdir(parents=True)
    assert run("down").startswith("0")
    assert (home / "kafka").exists()


@pytest.mark.usefixtures("home")
def test_status_of_nothing() -> None:
    assert "Nothing runs" in run("status")
    assert json.loads(run("status", "-o", "json").partition("\n")[2]) == []


@pytest.mark.usefixtures("home")
def test_prometheus_is_told_of_every_process_that_has_metrics() -> None:
    def row(name: str, kind: Kind, address: str | None) -> UnitStatus:
        return UnitStatus(name=name, service=name, kind=kind, state="ready", address=address)

    rows = [
        row("kafka", Kind.SERVICE, "127.0.0.1:9092"),
        row("gateway", Kind.JOB, "https://127.0.0.1:8000"),
        row("fraud-worker", Kind.JOB, "http://127.0.0.1:4711"),
        row("fraud-writer", Kind.JOB, None),  # it is just being started
    ]
    assert scraped(rows) == [
        {"targets": ["127.0.0.1:8000"], "labels": {"instance": "gateway", "__scheme__": "https"}},
        {"targets": ["127.0.0.1:4711"], "labels": {"instance": "fraud-worker", "__scheme__": "http"}},
    ]
    assert json.loads(run("status", "--targets").partition("\n")[2]) == []


def test_an_external_service_is_shown_as_such(home: Path) -> None:
    with environment({"MILLSTREAM_REDIS__URL": "redis://127.0.0.1:1/0"}):
        rows = json.loads(run("status", "-o", "json").partition("\n")[2])
    assert [(row["name"], row["state"], row["address"]) for row in rows] == [
        ("redis", "external", "redis://127.0.0.1:1/0")
    ]
    assert not home.exists()  # asking changes nothing


def test_the_end_of_a_log(home: Path) -> None:
    logs = home / "logs"
    logs.mkdir(parents=True)
    (logs / "flink-jobmanager.log").write_text("".join(f"jm {n}\n" for n in range(500)))
    (logs / "flink-taskmanager.log").write_text("tm\n")
    assert run("logs", "flink-jobmanager", "-n", "2") == "0\njm 498\njm 499\n"
    assert run("logs", "flink", "-n", "1") == "0\njm 499\ntm\n"
    with pytest.raises(UnknownName, match="unknown log 'flik'"):
        run("logs", "flik")


@pytest.mark.usefixtures("home")
def test_an_unknown_service_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        run("up", "--only", "redis,postgre")
    assert caught.value.nearest == "postgres"


@pytest.mark.usefixtures("home")
def test_the_doctor_names_what_is_wrong_and_how_to_mend_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with environment(
            {"MILLSTREAM_KAFKA__PORT": str(number), "MILLSTREAM_REDIS__URL": "redis://127.0.0.1:1/0"}
        ):
            code, _, text = run("doctor", "-o", "json").partition("\n")
    assert code == "1"
    found = json.loads(text)
    bad = {row["subject"]: row for row in found if row["level"] == "bad"}
    assert f"port {number} (Kafka broker) is taken by process" in bad["kafka"]["text"]
    assert "MILLSTREAM_KAFKA__PORT" in bad["kafka"]["mend"]
    assert "127.0.0.1:1" in bad["redis"]["text"]
    assert all(row["mend"] for row in found if row["level"] != "ok")
    assert {"Python", "Java", "kafka", "clock", "disk", "memory", "artifacts"} <= {
        r["subject"] for r in found
    }


def test_plain_lines_do_not_flood(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for done in range(1001):
        lines.transferred("kafka", done << 20, 1000 << 20)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "kafka: downloading, 0 of 1000 MB"
    assert said[-1] == "kafka: downloading, 1000 of 1000 MB"
    assert len(said) <= 6
