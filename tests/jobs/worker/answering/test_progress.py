"""Offsets of records that end in any order, against a plain reading of the rule."""

import random

import pytest

from jobs.worker.answering.progress import Place, Progress


@pytest.mark.parametrize("seed", range(20))
def test_what_is_committed_is_up_to_the_first_that_has_not_ended(seed: int) -> None:
    random_ = random.Random(seed)
    progress, committed = Progress(), {0: 0, 1: 0, 2: 0}
    begun: dict[int, list[int]] = {0: [], 1: [], 2: []}
    places: dict[tuple[int, int], Place] = {}
    ended: set[tuple[int, int]] = set()
    next_offset = {0: 0, 1: 0, 2: 0}
    for _ in range(600):
        if random_.random() < 0.5:
            partition = random_.randrange(3)
            next_offset[partition] += random_.choice(
                (1, 1, 1, 5)
            )  # compaction and control records leave gaps
            offset = next_offset[partition]
            begun[partition].append(offset)
            places[partition, offset] = progress.begin(partition, offset)
        elif left := sorted(places.keys() - ended):
            chosen = random_.choice(left)
            ended.add(chosen)
            progress.end(places[chosen])
            if random_.random() < 0.1:
                progress.end(places[chosen])
        if random_.random() < 0.2:
            committed |= progress.take()
            for partition, offsets in begun.items():
                first = next((o for o in offsets if (partition, o) not in ended), None)
                done = [o for o in offsets if first is None or o < first]
                assert committed[partition] == (done[-1] + 1 if done else 0)
                assert progress.open(partition) == len(offsets) - len(done)


def test_a_place_of_a_partition_that_was_given_up_moves_nothing() -> None:
    progress = Progress()
    old = progress.begin(0, 7)
    progress.forget(0)
    progress.begin(0, 7)
    progress.end(old)
    assert progress.take() == {}
    assert progress.open(0) == 1
