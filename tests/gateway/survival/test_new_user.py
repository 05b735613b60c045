"""What follows a channel, started as somebody would who has just read about it, with nothing but a key."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.ids import new_id
from tests.gateway.survival.site import ROOT, WITHIN_S, Site, until
from tests.gateway.test_javascript_client import node

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

FORM = r"```python\n(from gateway\.client import GatewayClient\n.*?)```"
CLIENT = ROOT / "clients" / "millstream.js"


class Started:
    """A process whose output goes to a file."""

    def __init__(self, command: list[str], output: Path, *, given: str = "", **env: str) -> None:
        self.output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | env, stdin=subprocess.PIPE, stdout=file, stderr=file
            )
        assert self._process.stdin is not None
        self._process.stdin.write(given.encode())
        self._process.stdin.flush()

    def said(self) -> str:
        return self.output.read_text()

    def wait(self) -> int:
        return self._process.wait(WITHIN_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def started(site: Site, tmp_path: Path) -> Iterator[dict[str, Started]]:
    pipeline, key = site.scored.pipeline, site.key()
    made = {
        "tail": Started(
            [sys.executable, "-m", "cli", "tail", "results", pipeline, "--where", "status=confirmed"],
            tmp_path / "tail",
            MILLSTREAM_KEY=key,
        ),
        "python": Started(
            [sys.executable, "-m", "asyncio"],
            tmp_path / "python",
            given=_of_the_readme(site.url, pipeline, key),
            PYTHONUNBUFFERED="1",
        ),
    }
    if shutil.which("curl"):
        address = f"{site.url}/api/v1/stream?channel=results&pipeline={pipeline}"
        made["curl"] = Started(
            ["curl", "-sN", "-H", f"Authorization: Bearer {key}", address], tmp_path / "curl"
        )
    try:
        command = node()
    except pytest.skip.Exception:
        command = []
    if command:
        shutil.copy(CLIENT, tmp_path)  # one file, and nothing else
        script = tmp_path / "page.mjs"
        script.write_text(
            'import { MillstreamClient } from "./millstream.js";\n'
            f'const client = new MillstreamClient("{site.url}", {{ token: "{key}" }});\n'
            f'client.subscribe("results", {{ pipeline: "{pipeline}" }}, (event) => console.log(event.id));\n'
        )
        made["javascript"] = Started([*command, str(script)], tmp_path / "javascript")
    yield made
    for one in made.values():
        one.kill()


def _of_the_readme(url: str, pipeline: str, key: str) -> str:
    """What is pasted into `python -m asyncio`."""
    found = re.search(FORM, (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    code = found[1].replace("http://127.0.0.1:8000", url).replace('"fraud"', f'"{pipeline}"')
    return f"key = {key!r}\n{code}\n"


def test_all_of_them_show_what_is_pushed(site: Site, started: dict[str, Started]) -> None:
    until(lambda: site.metric("gateway_subscriptions") >= len(started), "all follow")
    id = new_id()
    site.push(site.scored, [id])
    for name, one in started.items():
        until(lambda: id in one.said(), f"{name} shows it", one.said)  # noqa: B023
    assert f"{id}  status=confirmed" in started["tail"].said()
    assert f"{id} confirmed" in started["python"].said()
