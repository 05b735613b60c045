"""A result goes out under the key and to the partition of its own input, in whatever order they come."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from core.clock import ManualClock
from jobs.worker.batch import Outputs
from jobs.worker.inputs import Inputs
from jobs.worker.outbox import SessionOutbox
from pipelines.outbox import Outbox
from tests.jobs.writer.samples import FakeMessage


class Recorded(Outbox):
    """Keeps what would be produced."""

    def __init__(self) -> None:
        super().__init__(lambda: pytest.fail("nothing connects"))
        self.sent: list[tuple[bytes, bytes | None, int]] = []

    def send_batch(self, topic: str, messages: Sequence[dict[str, Any]], *, partition: int) -> None:
        del topic
        self.sent += [(one["value"], one["key"], partition) for one in messages]


@pytest.mark.parametrize("seed", range(20))
def test_results_keep_to_their_inputs(seed: int) -> None:
    dice = random.Random(seed)
    messages = [
        FakeMessage(at, at_partition=dice.randrange(3), named=f"key-{at}".encode()) for at in range(30)
    ]
    indexes = dice.sample(range(30), dice.choice([30, 30, 7]))
    outbox = Recorded()
    session = SessionOutbox(outbox, topic="t", job="j", clock=ManualClock(), dead=set())
    values = [f"result-{at}".encode() for at in indexes]
    session.send(Inputs.of(messages), Outputs(indexes, values, [], [], 0))  # type: ignore[arg-type]
    expected = [(f"result-{at}".encode(), messages[at].key(), messages[at].partition()) for at in indexes]
    assert sorted(outbox.sent) == sorted(expected)
