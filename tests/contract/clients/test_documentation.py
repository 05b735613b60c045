"""What `docs/clients.md` says to type, typed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.clients.conftest import Site

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
KAFKA = [
    line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if "millstream kafka" in line
]


def here(site: Site, text: str) -> str:
    """The addresses of the page as they are on this stack."""
    given = site.settings
    for theirs, ours in (
        ("127.0.0.1:8000", f"127.0.0.1:{given.gateway.port}"),
        ("127.0.0.1:8081", f"127.0.0.1:{given.registry.port}"),
        ("127.0.0.1:9092", given.kafka.address),
        (".millstream/", f"{given.root}/"),
    ):
        text = text.replace(theirs, ours)
    return text


def typed(site: Site, command: list[str]) -> str:
    environment = os.environ | {"KEY": site.key, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3_000:]
    return done.stdout.decode(errors="replace")  # a value may be printed that is no text


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_each_program_runs(site: Site, number: int) -> None:
    assert typed(site, [sys.executable, "-P", "-c", here(site, PYTHON[number])])


@pytest.mark.parametrize("line", KAFKA)
def test_each_kafka_command_runs(site: Site, line: str) -> None:
    command = shlex.split(line)
    told = typed(site, [sys.executable, "-P", "-m", "cli", *command[1:]])
    said = "fraud.transactions.results.v1" if "topics" in command else "ce_type:"
    assert ('"tenant"' if "--avro" in command else said) in told


def test_the_page_has_programs() -> None:
    assert len(PYTHON) == 5
    assert len(KAFKA) == 3
