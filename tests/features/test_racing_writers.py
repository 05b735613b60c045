"""Two processes that write the same keys at once, on a real Redis: the newest wins, and for no reader does a
value go back."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from core.clock import ManualClock
from features.online.client import connect
from features.online.packed_codec import PackedCodec
from features.online.packed_reader import PackedReader
from features.online.packed_redis import RedisPackedValues
from tests.features.packed_layouts import DEMAND, NOW
from tests.features.racing_writer import ENTITIES, SEQUENCES, TIMES, given, values
from tests.features.redis_server import RedisServer, own_redis

pytestmark = pytest.mark.services

ROOT = Path(__file__).resolve().parents[2]
Version = tuple[int, int]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with own_redis() as running:
        yield running


@contextmanager
def writer(server: RedisServer, tenant: str, seed: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that is ready to write."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.features.racing_writer", str(server.port), tenant, str(seed)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def begin(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def outcomes(process: "subprocess.Popen[str]") -> dict[str, int]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return {name: int(count) for name, count in (part.split("=") for part in out.split())}


def test_no_reader_sees_a_value_go_back_and_the_newest_stays(server: RedisServer) -> None:
    client = connect(server.settings)
    store, codec = RedisPackedValues(client), PackedCodec(DEMAND)
    keys = [DEMAND.key("t", entity) for entity in ENTITIES]
    seen: list[list[Version]] = [[] for _ in ENTITIES]

    def look() -> None:
        for found, data in zip(seen, store.get(keys), strict=True):
            if data is not None:
                at, sequence, read = codec.decode(data)
                assert tuple(read) == values(at, sequence), "a value of one version under another"
                if not found or found[-1] != (at, sequence):
                    found.append((at, sequence))

    with ExitStack() as held:
        racing = [held.enter_context(writer(server, "t", seed)) for seed in (1, 2)]
        for process in racing:
            begin(process)
        while any(process.poll() is None for process in racing):
            look()
        told = [outcomes(process) for process in racing]
    look()

    rows = [given("t", seed) for seed in (1, 2)]
    for counts, mine in zip(told, rows, strict=True):
        assert counts.keys() == {"written", "older"}, "both win some and lose some"
        assert sum(counts.values()) == len(mine)
    both = [{(row.entity, row.event_time_ms, row.sequence) for row in mine} for mine in rows]
    assert len(both[0] & both[1]) > 0.5 * len(ENTITIES) * TIMES * SEQUENCES, "they overlap"
    for entity, found in zip(ENTITIES, seen, strict=True):
        newest = max(
            (row.event_time_ms, row.sequence) for mine in rows for row in mine if row.entity == entity
        )
        assert found == sorted(found), "a value went back"
        assert len(found) > 10, "the reader saw the race"
        assert found[-1] == newest
        read = PackedReader(store, ManualClock(NOW)).read(DEMAND, "t", entity)
        assert list(read.values.values()) == list(values(*newest))
    client.close()
