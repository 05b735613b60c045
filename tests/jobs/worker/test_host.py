"""The host against a scripted client: when it holds back, what it commits and when, what it gives up."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition

from core.clock import ManualClock
from core.errors import MillstreamError, ModelRefused, Unavailable
from core.telemetry.metrics import REGISTRY
from core.telemetry.probe import Probe
from jobs.worker.batch import Outputs
from jobs.worker.host import Host, Limits, Route
from jobs.worker.inputs import Inputs
from operators.dedupe import Dedupe


class Message:
    def __init__(self, partition: int, offset: int, value: bytes = b"v") -> None:
        self._at = partition, offset
        self._value = value

    def partition(self) -> int:
        return self._at[0]

    def offset(self) -> int:
        return self._at[1]

    def value(self) -> bytes:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return 2, 1000

    def error(self) -> None:
        return None


class Client:
    """A consumer that plays its script: each entry is what one `consume` or `poll` gives, or does."""

    def __init__(self, world: "World") -> None:
        self.world = world

    def subscribe(self, topics: list[str], *, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.world.handlers = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}
        on_assign(self, [TopicPartition("in", number) for number in (0, 1)])

    def consume(self, count: int, timeout: float) -> list[Message]:
        return self.world.next(count)

    def poll(self, timeout: float) -> Message | None:
        self.world.clock.elapsed += timeout
        if self.world.while_held:
            self.world.while_held.pop(0)(self)
        return None

    def commit(self, *, offsets: Sequence[TopicPartition], asynchronous: bool) -> None:
        self.world.log.append(("commit", {tp.partition: tp.offset for tp in offsets}))

    def get_watermark_offsets(self, place: TopicPartition, cached: bool) -> tuple[int, int]:
        assert cached, "a broker was asked"
        return 0, self.world.end

    def assignment(self) -> list[TopicPartition]:
        return []

    def close(self) -> None:
        self.world.log.append(("close",))

    def incremental_assign(self, partitions: Any) -> None: ...
    def incremental_unassign(self, partitions: Any) -> None: ...
    def pause(self, partitions: Any) -> None:
        self.world.log.append(("pause",))

    def resume(self, partitions: Any) -> None:
        self.world.log.append(("resume",))


class World:
    """Everything around the host, and a log of what it did, in order."""

    def __init__(self, batches: list[list[Message]], limits: Limits | None = None) -> None:
        self.clock = ManualClock()
        self.batches = batches
        self.stop = threading.Event()
        self.log: list[tuple[Any, ...]] = []
        self.handlers: dict[str, Any] = {}
        self.while_held: list[Callable[[Client], None]] = []
        self.failures: list[Exception] = []
        self.poison: set[int] = set()
        self.pause_s = 0.0
        self.end = 10
        self.dedupe = Dedupe()
        self.host = Host(
            connect=lambda committed: Client(self),
            outbox=self,  # type: ignore[arg-type]
            work=self,  # type: ignore[arg-type]
            serving=self,  # type: ignore[arg-type]
            readback=self,  # type: ignore[arg-type]
            results_codec=None,  # type: ignore[arg-type]
            dead=set(),
            route=Route("small", "in", "out", "in.dlq"),
            limits=limits or Limits(commit_s=0.0001),
            clock=self.clock,
            probe=Probe(),
            stop=self.stop,
        )

    def next(self, count: int) -> list[Message]:
        self.clock.elapsed += 0.001
        if count > 1:  # the rest of a batch
            return []
        if not self.batches:
            self.stop.set()
            return []
        return self.batches.pop(0)  # type: ignore[return-value]

    # the outbox
    def send(self, inputs: Inputs, outputs: Outputs) -> None:
        self.log.append(("send", list(inputs.offsets), [refused.code for refused in outputs.refused]))

    def settle(self, timeout_s: float) -> None:
        self.log.append(("settle",))

    # the work
    def work(self, inputs: Inputs, scorer: object) -> Outputs:
        self.clock.elapsed += self.pause_s
        if self.failures:
            raise self.failures.pop(0)
        if self.poison.intersection(inputs.offsets):
            raise ValueError("nobody foresaw this")
        return Outputs(list(range(len(inputs))), [b"r"] * len(inputs), [], [], 0)

    def failed(self, error: Exception, records: int) -> None:
        del error, records

    def done(self, outputs: Outputs) -> None: ...

    # the model, the readback
    current = None

    def broke(self, error: object) -> bool:
        self.log.append(("reload",))
        return False

    def outcomes(self, *given: Any, **more: Any) -> int:
        self.log.append(("read back", given[1]))
        return 0

    def dead_letters(self, *given: Any) -> set[tuple[int, int]]:
        return set()


def test_offsets_are_committed_only_after_the_outputs_were_settled() -> None:
    world = World([[Message(0, 5), Message(1, 7), Message(0, 6)], [Message(0, 7)]])
    world.host.run()
    assert world.log == [
        ("read back", [0, 1]),
        ("send", [5, 7, 6], []),
        ("settle",),
        ("commit", {0: 7, 1: 8}),
        ("send", [7], []),
        ("settle",),
        ("commit", {0: 8, 1: 8}),
        ("settle",),
        ("commit", {0: 8, 1: 8}),
        ("close",),
    ]


@pytest.mark.parametrize(
    ("error", "reloads"), [(Unavailable("the registry is away"), 0), (ModelRefused("broken"), 1)]
)
def test_a_batch_is_held_back_until_it_can_be_worked(error: MillstreamError, reloads: int) -> None:
    world = World([[Message(0, 1), Message(0, 2)]])
    world.failures = [error, error, error]
    world.host.run()
    assert world.log.count(("send", [1, 2], [])) == 1
    assert world.log.count(("pause",)) == world.log.count(("resume",)) == 1
    assert world.log.count(("reload",)) == 3 * reloads
    assert world.clock.elapsed >= 0.1 + 0.2 + 0.4


def test_told_to_stop_while_holding_back_nothing_is_committed() -> None:
    world = World([[Message(0, 1)]])
    world.failures = [Unavailable("away")] * 100
    world.while_held = [lambda client: world.stop.set()]
    world.host.run()
    assert not any(entry[0] in ("send", "commit") for entry in world.log)
    assert world.log[-1] == ("close",)


def test_partitions_taken_away_while_holding_back_are_not_answered() -> None:
    world = World([[Message(0, 1), Message(1, 1)]])
    world.failures = [Unavailable("away")]
    world.while_held = [lambda client: world.handlers["revoke"](client, [TopicPartition("in", 1)])]
    world.host.run()
    assert ("send", [1], []) in world.log
    assert [entry for entry in world.log if entry[0] == "commit"][-1] == ("commit", {0: 2})


def test_one_message_that_breaks_the_unforeseen_is_cornered_and_dead_lettered() -> None:
    world = World([[Message(0, offset) for offset in range(8)]])
    world.poison = {5}
    world.host.run()
    sent = [entry[1:] for entry in world.log if entry[0] == "send"]
    assert sorted(offset for offsets, _ in sent for offset in offsets) == list(range(8))
    assert [offsets for offsets, codes in sent if codes] == [[5]]
    assert world.log[-2] == ("commit", {0: 8})


def test_on_revoke_outputs_are_settled_and_committed_before_the_partition_goes() -> None:
    world = World([[Message(0, 1), Message(1, 4)]], Limits(commit_s=3600))
    inner = world.next

    def revoke_then_stop(count: int) -> list[Message]:
        if not world.batches and count == 1:
            world.handlers["revoke"](Client(world), [TopicPartition("in", 1)])
        return inner(count)

    world.next = revoke_then_stop  # type: ignore[method-assign]
    world.host.run()
    after = world.log[world.log.index(("send", [1, 4], [])) :]
    assert after[:3] == [("send", [1, 4], []), ("settle",), ("commit", {0: 2, 1: 5})]
    assert after[-2] == ("commit", {0: 2})


def test_how_far_behind_the_end_it_is_is_told_of_the_partitions_that_it_has() -> None:
    def told(partition: int) -> float | None:
        labels = {"pipeline": "small", "partition": str(partition)}
        return REGISTRY.get_sample_value("millstream_worker_lag_records", labels)

    world = World([[Message(0, 5), Message(1, 9)], [Message(0, 6)]])
    world.pause_s = 3.0  # so that the second batch is the one after which it is looked
    world.host.run()
    assert (told(0), told(1)) == (10 - 7, 0)
    world.handlers["revoke"](Client(world), [TopicPartition("in", 0)])
    assert (told(0), told(1)) == (None, 0)


def test_what_was_lost_is_not_committed() -> None:
    world = World([[Message(0, 1), Message(1, 4)]], Limits(commit_s=3600))
    inner = world.next

    def lose_then_stop(count: int) -> list[Message]:
        if not world.batches and count == 1:
            world.handlers["lost"](Client(world), [TopicPartition("in", 1)])
        return inner(count)

    world.next = lose_then_stop  # type: ignore[method-assign]
    world.host.run()
    assert [entry for entry in world.log if entry[0] == "commit"] == [("commit", {0: 2})]


def test_an_error_of_the_client_ends_the_session_without_a_commit() -> None:
    world = World([[Message(0, 1)]], Limits(commit_s=3600))
    inner = world.next

    def break_later(count: int) -> list[Message]:
        if not world.batches and count == 1:
            raise KafkaException("the broker is gone")
        return inner(count)

    world.next = break_later  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="broker is gone"):
        world.host.run()
    assert not any(entry[0] == "commit" for entry in world.log)
    assert world.log[-1] == ("close",)


def test_after_a_long_silence_what_others_answer_by_now_is_dropped() -> None:
    world = World([[Message(0, 1), Message(1, 1)]])
    world.pause_s = 60.0  # stopped in the middle of the batch
    world.while_held = [lambda client: world.handlers["lost"](client, [TopicPartition("in", 1)])]
    world.host.run()
    assert [entry for entry in world.log if entry[0] == "send"] == [("send", [1], [])]
    assert [entry for entry in world.log if entry[0] == "commit"][-1] == ("commit", {0: 2})


def test_a_slow_model_whose_partitions_are_still_there_is_answered_once() -> None:
    world = World([[Message(0, 1)], [Message(0, 2)]])
    world.pause_s = 60.0
    world.host.run()
    assert [entry for entry in world.log if entry[0] == "send"] == [("send", [1], []), ("send", [2], [])]
    assert world.log.count(("pause",)) == world.log.count(("resume",)) == 2
