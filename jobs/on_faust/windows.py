"""The tumbling windows of the partitions at hand: messages in, feature rows and late events out.

Delivery promise: at least once. Every event is in the row of its window, a repeat within the horizon, or on
the late topic; a window's row comes out once the watermark of its partition has passed the window's end.
After a crash a row or a late event may be written again: it is equal to the first, id and values, as all of
it follows from the partition's messages alone.

Faust's own means do not give that. It commits offsets of events whose outputs, and whose table's changelog,
have not been acknowledged, it goes on when a commit fails, and an event and its effects on a table are
several messages that a crash can come between. So no offset of Faust's is relied upon and no table is kept:
what counts is a checkpoint of our own (`jobs.on_faust.partition`), committed after everything before it was
acknowledged. A partition that comes to this process is read again from its checkpoint on, quietly up to where
the checkpoint was made, then with its outputs up to the partition's end; from there Faust's events go on. An
event that Faust delivers again is passed over, a gap in what it delivers is read.

A message that cannot be decoded is passed over and counted; the writer, which reads the same topic, sends
it to the dead-letter topic.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from functools import partial
from typing import Any

import pyarrow as pa

from core.clock import from_millis
from core.errors import DeclarationError, InvalidInput
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.metrics import counter
from features.compile.running import RunningView
from features.feature_rows import ENTITY, SEQUENCE, WINDOW_END, WINDOW_START, row_id
from jobs.on_faust.job import FaustJob
from jobs.on_faust.partition import Checkpoint, ClosedWindow, PartitionState
from jobs.on_faust.source_log import SourceLog, SourceMessage
from schemas.codec import RecordCodec
from schemas.keys import entity_of, key_of
from schemas.record import Record
from schemas.registry import SchemaRegistry
from schemas.topic import Topic

log = logger("jobs.on_faust")
EVENTS = counter("faust_events", "Messages of the source by outcome", ("pipeline", "view", "outcome"))
ROWS = counter("faust_rows", "Feature rows of closed windows", ("pipeline", "view"))

Send = Callable[[str, bytes, bytes], Awaitable[Any]]
"""Queue (topic, key, value) without waiting; the result is awaited for the acknowledgement."""
MOST_PENDING = 5_000
_COMMIT_AGAIN_S = 3600.0


class TumblingWindows:
    """Use it from one event loop; every message is taken in one step of it.

    disorder: the view's bound, or another one for a replay.
    """

    def __init__(
        self, job: FaustJob, settings: Settings, send: Send, *, disorder: timedelta | None = None
    ) -> None:
        self._job = job
        self._send = send
        self._view = RunningView(job.view)
        self._disorder = job.view.disorder if disorder is None else disorder
        registry = SchemaRegistry.of(settings)
        self._events = _codec(job.source, registry)
        self._rows = _codec(job.rows, registry)
        self._log = SourceLog(settings, job.source.name, job.name, job.view.digest)
        self._ours: set[int] | None = None
        self._restored: set[int] = set()
        self._partitions: dict[int, PartitionState] = {}
        self._pending: list[Awaitable[Any]] = []
        self._committed: dict[int, tuple[int, float]] = {}
        self._restoring = asyncio.Lock()
        self._settling = asyncio.Lock()
        labels = {"pipeline": job.pipeline, "view": job.view.name}
        self._counts = {
            outcome: EVENTS.labels(**labels, outcome=outcome)
            for outcome in ("taken", "repeat", "late", "tick", "undecodable")
        }
        self._rows_out = ROWS.labels(**labels)

    def open(self) -> None:
        """Ask Kafka whether it is there, and the registry for what rows are written with: later there is no
        holding back. Raises Unavailable."""
        self._log.bounds(0)
        self._rows.encode_batch(pa.RecordBatch.from_pylist([], schema=self._rows.columns))

    def close(self) -> None:
        self._log.close()

    @property
    def crowded(self) -> bool:
        """Whether so many outputs await their acknowledgement that it is time to `settle`."""
        return len(self._pending) >= MOST_PENDING

    @property
    def ready(self) -> bool:
        """Whether partitions were assigned, possibly none, and all of them are restored."""
        return self._ours is not None and self._ours <= self._restored

    def assign(self, partitions: Collection[int]) -> None:
        """These partitions are ours now; forget the state of all others, it is another process's to keep."""
        self._ours = set(partitions)
        self._restored &= self._ours
        for partition in self._partitions.keys() - self._ours:
            del self._partitions[partition]
            self._committed.pop(partition, None)

    async def take(self, message: SourceMessage) -> None:
        """A message that Faust delivered. Raises Unavailable, and has not taken it then."""
        state = self._partitions.get(message.partition)
        if state is None or message.offset > state.next_offset:
            state = await self._caught_up(message.partition, message.offset)
        if message.offset >= state.next_offset:
            self._handle(state, message)

    async def restore(self) -> None:
        """Read the partitions that are new to this process, up to their ends, whether or not Faust delivers
        anything of them. Raises Unavailable; call it again then."""
        for partition in sorted((self._ours or set()) - self._restored):
            _, end = await asyncio.to_thread(self._log.bounds, partition)
            await self._caught_up(partition, end)
            self._restored.add(partition)

    async def _caught_up(self, partition: int, end: int) -> PartitionState:
        """The state of the partition with everything before `end` taken, and the outputs on their way."""
        async with self._restoring:
            state = self._partitions.get(partition)
            if state is None:
                state = self._partitions[partition] = await self._resume(partition)
            await self._read(state, partition, end, self._handle)
            return state

    async def settle(self) -> None:
        """Wait until every output is acknowledged, and commit the state as of the call.

        Raises Unavailable where the commit failed, which the next call makes good, and what a send raised:
        that output is lost to this process, another one has to begin at the last checkpoint.
        """
        async with self._settling:
            pending, self._pending = self._pending, []
            ours = self._partitions.keys() & (self._ours or set())
            checkpoints = {number: self._partitions[number].checkpoint() for number in ours}
            await asyncio.gather(*pending)
            now = time.monotonic()
            changed = {number: one for number, one in checkpoints.items() if self._is_news(number, one, now)}
            await asyncio.to_thread(self._log.commit, changed)
            self._committed |= {number: (one.done, now) for number, one in changed.items()}

    def _is_news(self, partition: int, checkpoint: Checkpoint, now: float) -> bool:
        done, at = self._committed.get(partition, (-1, 0.0))
        return checkpoint.done != done or now - at > _COMMIT_AGAIN_S

    async def _resume(self, partition: int) -> PartitionState:
        """The state at the partition's checkpoint, read again; an empty one at its oldest message."""
        low, _ = await asyncio.to_thread(self._log.bounds, partition)
        found = await asyncio.to_thread(self._log.checkpoint, partition)
        state = PartitionState(self._view, horizon=self._job.horizon, disorder=self._disorder)
        if found is None or found.done < low:
            state.next_offset = low
            log.info("begins", job=self._job.name, partition=partition, offset=low, checkpoint=found)
            return state
        if found.windows < low:
            log.warning("events of open windows are gone", partition=partition, oldest=low, checkpoint=found)
        state.resume(found, oldest=low)
        await self._read(state, partition, found.done, partial(self._again, found))
        state.resumed(found)
        log.info("resumes", job=self._job.name, partition=partition, offset=found.done, replay=found.replay)
        return state

    async def _read(
        self,
        state: PartitionState,
        partition: int,
        end: int,
        handle: Callable[[PartitionState, SourceMessage], None],
    ) -> None:
        chunks = self._log.read(partition, state.next_offset, end)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            for message in chunk:
                if message.offset >= state.next_offset:  # Faust may have delivered it meanwhile
                    handle(state, message)
            if self.crowded:
                await self.settle()
        state.next_offset = max(state.next_offset, end)

    def _again(self, checkpoint: Checkpoint, state: PartitionState, message: SourceMessage) -> None:
        event = self._decoded(state, message)
        if event is not None:
            state.again(event, message.offset, checkpoint)

    def _handle(self, state: PartitionState, message: SourceMessage) -> None:
        """Take the message and send what follows from it, all in one step of the event loop: a checkpoint
        made in between would lose it."""
        event = self._decoded(state, message)
        if event is not None:
            outcome = state.event(event, message.offset)
            self._counts[outcome].inc()
            if outcome == "late" and message.value is not None:
                entity = entity_of([getattr(event, name) for name in self._job.view.entity_fields])
                self._queue(self._job.late, key_of(event.tenant, entity), message.value)
        for window in state.closed():
            row = self._row(window)
            self._queue(self._job.rows, key_of(row.tenant, getattr(row, ENTITY)), self._rows.encode(row))
            self._rows_out.inc()

    def _decoded(self, state: PartitionState, message: SourceMessage) -> Record | None:
        """The event; None for a tick and for what is no event, which are taken."""
        if message.value is None:
            state.tick(message.at_ms, message.offset)
            self._counts["tick"].inc()
            return None
        try:
            event: Record = self._events.decode(message.value)
            return event
        except InvalidInput as error:
            state.skip(message.offset)
            self._counts["undecodable"].inc()
            log.warning(
                "passed over", partition=message.partition, offset=message.offset, code=error.code,
                reason=error.what,
            )  # fmt: skip
            return None

    def _row(self, window: ClosedWindow) -> Record:
        entity, end = entity_of(window.entity), from_millis(window.end_ms)
        own: dict[str, Any] = {
            **dict(zip(self._job.view.entity_fields, window.entity, strict=True)),
            ENTITY: entity,
            WINDOW_START: from_millis(window.end_ms - self._view.size_ms),
            WINDOW_END: end,
            SEQUENCE: 0,
        }
        row: Record = self._rows.record_type(
            tenant=window.tenant, id=row_id(entity, end, 0), **own, **window.values
        )
        return row

    def _queue(self, topic: Topic, key: str, value: bytes) -> None:
        self._pending.append(self._send(topic.name, key.encode(), value))


def _codec(topic: Topic, registry: SchemaRegistry) -> RecordCodec[Any]:
    if topic.record is None:
        raise DeclarationError(f"topic {topic.name} declares no record", mend="give the topic its record")
    return RecordCodec(topic.record, registry, topic.subject, max_bytes=topic.max_bytes)
