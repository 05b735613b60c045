"""The JavaScript client, run by Node against a real server whose connections are cut at random."""

import asyncio
import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.gateway.streaming import KEY, PARTITIONS, Cutter, partition_of, streaming
from tests.operators.generating import words, world

SCRIPT = Path(__file__).with_name("javascript_client.js")
WITHIN_S = 120.0
COUNT = 300


def node() -> list[str]:
    """How to start Node with a WebSocket; skips, loudly, where there is none."""
    found = shutil.which("node")
    version = _version(found) if found is not None else 0
    if found is None or version < 20:
        why = f"NOT TESTED: the JavaScript client, for there is no Node on the PATH (version {version})"
        warnings.warn(why, stacklevel=1)
        pytest.skip(why)
    options = [] if version >= 22 else ["--experimental-websocket"]
    return [found, "--no-warnings", *options]


def _version(path: str) -> int:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=60)
    major = said.stdout.strip().removeprefix("v").partition(".")[0]
    return int(major) if major.isdigit() else 0


async def test_the_javascript_client_follows_publishes_asks_and_types() -> None:
    command = node()
    random = Random(5)
    async with world("fake") as w, streaming(ring=48, queue=30, generate=w.generate) as made:
        w.fakes[0].seconds_per_token = 0.01
        cutter = Cutter(made.port, random)
        await cutter.start()
        environment = os.environ | {
            "URL_OF_GATEWAY": cutter.url,
            "DIRECT_URL": made.url,
            "KEY": KEY,
            "COUNT": str(COUNT),
        }
        process = await asyncio.create_subprocess_exec(
            *command,
            str(SCRIPT),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[dict[str, Any]] = []
        ids = [f"t{number}" for number in range(COUNT)]

        async def feed() -> None:
            for start in range(0, COUNT, 20):
                made.push(ids[start : start + 20])
                await asyncio.sleep(0.005)

        feeding: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(WITHIN_S):
                async for line in process.stdout:
                    lines.append(json.loads(line))
                    if "subscribed" in lines[-1] and feeding is None:
                        feeding = asyncio.create_task(feed())
                assert await process.wait() == 0, (await process.stderr.read()).decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await cutter.close()
    events = [line for line in lines if "event" in line]
    for partition in range(PARTITIONS):
        found = [line["event"] for line in events if line["partition"] == partition]
        assert found == [id for id in ids if partition_of(id) == partition]
    rest = [line for line in lines if "event" not in line and "subscribed" not in line]
    assert rest[0]["reconnects"] >= cutter.cuts > 0  # closed for being slow, too
    text, typed_on = words(6), words(6, after=1)
    assert rest[1:] == [
        {"published": "js-1"},
        {"refused": "invalid_record", "status": 422},
        {"answer": text, "pieces": text},
        {"superseded": True, "suggestion": typed_on, "source": "model"},
        {"suggestion": typed_on[2:], "source": "cache"},
        {"refused": "unknown_channel", "status": 404},
        {"closed": "closed_4401"},
        {"failed": "closed_4401", "retryable": False},
    ]
    assert [message.key for message in made.events.kafka.produced] == ["acme|c-1"]
