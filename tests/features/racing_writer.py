"""One of the writers that race: `python -m tests.features.racing_writer PORT TENANT SEED`.

It waits for a line on its standard input, writes every version of every entity that `given` says is its own,
in an order of its own, and prints what became of them: a count per outcome.
"""

import random
import sys
from collections import Counter

from core.settings import Redis, settings
from features.online.client import connect
from features.online.packed_redis import RedisPackedValues
from features.online.packed_writer import PackedRow, PackedWriter
from tests.features.packed_layouts import DEMAND, NOW_MS

ENTITIES = tuple(f"region-{number}" for number in range(8))
TIMES, SEQUENCES = 250, 3
_BATCH = 20


def values(at_ms: int, sequence: int) -> tuple[int, float, bool, int, float]:
    """Of each version its own, so that a reader sees whether a value is one that was written."""
    return at_ms - NOW_MS, sequence / 4, at_ms % 2 == 0, at_ms * 3 + sequence, -float(sequence)


def given(tenant: str, seed: int) -> list[PackedRow]:
    """Three in four of all versions of all entities, the newest of every other entity among them: both
    writers have most versions, and neither has all of the newest."""
    dice = random.Random(seed)
    rows = []
    for number, entity in enumerate(ENTITIES):
        newest = (TIMES - 1, SEQUENCES - 1)
        for version in ((at, sequence) for at in range(TIMES) for sequence in range(SEQUENCES)):
            mine = number % 2 == seed % 2 if version == newest else dice.random() < 0.75
            if mine:
                at_ms = NOW_MS + version[0]
                rows.append(PackedRow(tenant, entity, at_ms, version[1], values(at_ms, version[1])))
    # roughly forwards, with setbacks of up to a fifth: old and new ones meet all the time
    return sorted(rows, key=lambda row: row.event_time_ms + dice.uniform(0, TIMES / 5))


def main(port: int, tenant: str, seed: int) -> None:
    client = connect(settings().model_copy(update={"redis": Redis(url=None, port=port)}))
    writer, rows = PackedWriter(RedisPackedValues(client), DEMAND), given(tenant, seed)
    client.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    outcomes = Counter(
        str(outcome)
        for begin in range(0, len(rows), _BATCH)
        for outcome in writer.write(rows[begin : begin + _BATCH])
    )
    print(" ".join(f"{name}={count}" for name, count in sorted(outcomes.items())), flush=True)
    client.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
