"""Small records and fakes that the gateway's tests share."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

import msgspec
from websockets.frames import Frame
from websockets.protocol import Protocol, Side, State

from core.errors import Unavailable
from gateway.keys import Key
from gateway.push.hub import Subscription
from gateway.push.queue import Given
from gateway.push.ring import Entry
from schemas.catalog.decisions import StatusChange
from schemas.codec import RecordCodec
from schemas.record import Float32, Int32, Record, record

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Item(msgspec.Struct, frozen=True):
    """A part of a payment."""

    sku: str
    weights: list[Float32] = []


@record(entity="card_id", time="occurred_at", namespace="millstream.test")
class Payment(Record, frozen=True, kw_only=True):
    """One field of each kind."""

    card_id: str
    occurred_at: datetime
    amount_cents: int
    small: Int32 = 0
    ratio: float | None = None
    single: Float32 | None = None
    positive: Annotated[int, msgspec.Meta(ge=0)] = 0
    kind: Literal["card", "cash"] = "card"
    flag: bool = False
    item: Item | None = None
    tags: list[str] = []
    counts: dict[str, int] = {}


def payment(**changes: Any) -> dict[str, Any]:
    """A valid payment as a client sends it."""
    return {"card_id": "c-1", "occurred_at": NOW.isoformat(), "amount_cents": 1250} | changes


class KeysInMemory:
    """A source of keys that can be away. `asked` counts the fetches."""

    def __init__(self, *keys: Key) -> None:
        self.keys = {key.id: key for key in keys}
        self.away = False
        self.asked = 0
        self.last_used: dict[str, datetime] = {}

    async def fetch(self, ids: Sequence[str]) -> Mapping[str, Key]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("keys are away")
        return {id: self.keys[id] for id in ids if id in self.keys}

    async def used(self, at: Mapping[str, datetime]) -> None:
        if self.away:
            raise Unavailable("keys are away")
        self.last_used |= at


class OneSchema:
    """A registry in memory that knows what it was asked about."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def id_of(self, subject: str, text: str) -> int:
        if text not in self._texts:
            self._texts.append(text)
        return self._texts.index(text) + 1

    def schema(self, schema_id: int) -> str:
        return self._texts[schema_id - 1]


STATUS_CODEC: RecordCodec[Any] = RecordCodec(StatusChange, OneSchema(), "status-value")


class Listener:
    """A receiver of frames without a socket; `limit` frames, then it is closed."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self.frames: list[dict[str, Any]] = []
        self.limit = limit
        self.closed = False

    def tell(self, frame: str) -> bool:
        if self.closed or len(self.frames) >= self.limit:
            self.closed = True
            return False
        self.frames.append(msgspec.json.decode(frame))
        return True

    def push(self, subscription: Subscription, given: Given) -> bool:
        return all(self.tell(event.text(subscription.label)) for event in given.events)

    def flush(self) -> None:
        """Everything has been taken."""

    async def room(self) -> int:
        await asyncio.sleep(0)
        return 0 if self.closed else self.limit - len(self.frames)

    def close(self, code: int, reason: str) -> None:
        self.closed = True

    @property
    def events(self) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == "event"]


def texts_of(frames: bytes) -> list[str]:
    """What a client reads of the frames that a WebSocket is written."""
    reader = Protocol(Side.CLIENT, state=State.OPEN)
    reader.receive_data(frames)
    return [cast(Frame, frame).data.decode() for frame in reader.events_received()]


def position_of(event: Mapping[str, Any]) -> tuple[int, str]:
    """The partition of an event frame, and the position in it."""
    ((partition, position),) = event["positions"].items()
    return int(partition), position


def status_entries(
    rows: Sequence[tuple[str, str, int]],
    *,
    partition: int = 0,
    first_offset: int = 0,
    entity: str = "card",
) -> list[Entry]:
    """Entries of (tenant, id, rank) with consecutive offsets, as a feed makes them."""
    entries = []
    for row, (tenant, id, rank) in enumerate(rows):
        change = StatusChange(
            tenant=tenant,
            id=id,
            entity=entity,
            occurred_at=NOW,
            pipeline="fraud",
            status=f"rank-{rank}",
            rank=rank,
            changed_at=NOW,
        )
        entries.append(
            Entry(
                tenant=tenant,
                id=id,
                rank=rank,
                group="fraud",
                entity=change.entity,
                key=(tenant, id, rank),
                partition=partition,
                offset=first_offset + row,
                at_ms=1_000 + first_offset + row,
                value=STATUS_CODEC.encode(change),
                record=change,
            )
        )
    return entries
