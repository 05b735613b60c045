"""`millstream tail` against a real server."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from cli.tail_commands import _filter
from core.errors import InvalidInput
from tests.gateway.streaming import KEY, streaming
from tests.operators.generating import until

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 120.0


async def test_tail_prints_what_is_pushed_and_ends() -> None:
    async with streaming() as made:
        arguments = ["tail", "results", "fraud", "--where", "id=b", "--where", "id=c", "--count", "2"]
        more = ["--url", made.url, "--key", KEY, "-o", "json"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli", *arguments, *more, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        channel = made.hub.channel("results:fraud")
        await until(lambda: "acme" in channel.subscribers, within_s=WITHIN_S)
        made.push(["a", "b", "c", "d"])
        async with asyncio.timeout(WITHIN_S):
            output, _ = await process.communicate()
    lines = [json.loads(line) for line in output.splitlines()]
    assert process.returncode == 0
    assert sorted(line["id"] for line in lines) == ["b", "c"]
    assert {line["data"]["pipeline"] for line in lines} == {"fraud"}


def test_values_are_json_where_they_are_json() -> None:
    assert _filter(["status=blocked", "rank=1", "rank=2", "late=true"]) == {
        "status": ["blocked"],
        "rank": [1, 2],
        "late": [True],
    }
    with pytest.raises(InvalidInput):
        _filter(["status"])
