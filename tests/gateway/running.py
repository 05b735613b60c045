"""A gateway of the tests' own, in a thread with its own event loop, on the local stack."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import httpx
import msgspec
from confluent_kafka import OFFSET_END, TopicPartition

from core.settings import Settings
from gateway.forwarding.wiring import NOTHING, Forward
from gateway.keys import create_key
from gateway.main import Assembly, serve
from pipelines.changes import apply
from pipelines.load import load_plans
from pipelines.plan import Plan
from schemas import broker
from schemas.broker import consumer, producer, watermarks
from schemas.catalog.decisions import Decision, StatusChange
from schemas.catalog.training import COMMANDS as TRAININGS
from schemas.catalog.transactions import Transaction
from schemas.codec import RecordCodec
from schemas.headers import header
from schemas.keys import key_of
from schemas.registry import SchemaRegistry

WITHIN_S = 20.0
START_S = 240.0
PLANS = load_plans()
FRAUD = PLANS["fraud"]


def forget_trainings(settings: Settings) -> None:
    """Delete what was asked for and nobody has begun: the next trainer on these services would do it all."""
    client = broker.admin(settings)  # kept until the answer: without it there is none
    for done in client.delete_records([TopicPartition(TRAININGS.name, 0, OFFSET_END)]).values():
        done.result(timeout=60)


class RunningGateway:
    """Serves from entering to leaving; leaving drains. Use as a context manager. `assembly` are its parts."""

    assembly: Assembly

    def __init__(
        self,
        settings: Settings,
        plans: Mapping[str, Plan] = PLANS,
        *,
        llm: bool = False,
        forward: Forward = NOTHING,
    ) -> None:
        self.settings = settings
        self._plans = plans
        self._llm = llm
        self._forward = forward
        self.url = f"http://127.0.0.1:{settings.gateway.port}"
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="test-gateway", daemon=True)

    def __enter__(self) -> Self:
        apply(list(self._plans.values()), self.settings)
        self._thread.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=30)
        if self._failure is not None:
            raise self._failure

    def wait_ready(self, within_s: float = START_S) -> None:
        """Until `/ready` says so."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                answer = httpx.get(f"{self.url}/readyz?verbose", timeout=2)
                if answer.status_code == 200:
                    return
                told = answer.text
            except httpx.TransportError as error:
                told = repr(error)
            if self._failure is not None:
                raise self._failure
            assert time.monotonic() < deadline, f"the gateway is not ready: {told}"
            time.sleep(0.05)

    def key(self, tenant: str = "acme", **more: Any) -> str:
        return create_key(self.settings, tenant, **more)

    def http(self, tenant: str = "acme") -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key(tenant)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def _made(self, assembly: Assembly) -> None:
        self.assembly = assembly

    def _run(self) -> None:
        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await serve(
                self.settings,
                self._plans,
                llm=self._llm,
                forward=self._forward,
                stop=self._stop,
                made=self._made,
            )

        try:
            asyncio.run(main())
        except BaseException as error:
            self._failure = error


def transaction(**changes: Any) -> dict[str, Any]:
    """A valid transaction as a client sends it: required fields only, now."""
    event: dict[str, Any] = {}
    for field in msgspec.structs.fields(Transaction):
        if field.required and field.name not in ("tenant", "id"):
            event[field.name] = 1
    event |= {"card_id": "1-2-3", "product": "W", "occurred_at": datetime.now(UTC).isoformat()}
    return event | changes


def change(id: str, *, tenant: str = "acme", status: str = "confirmed", rank: int = 1) -> StatusChange:
    """A status change as the writer makes it."""
    now = datetime.now(UTC)
    whose = {"tenant": tenant, "id": id, "entity": "1-2-3", "occurred_at": now, "pipeline": "fraud"}
    result = Decision(
        **whose,  # type: ignore[arg-type]
        score=7.5,
        decision="confirm",
        status=status,
        model="fraud",
        model_version="1",
        decided_at=now,
        received_at=now,
    )
    return StatusChange(**whose, status=status, rank=rank, changed_at=now, result=result)  # type: ignore[arg-type]


def produce(settings: Settings, changes: Sequence[StatusChange]) -> None:
    """Put status changes on their topic and wait until they are there."""
    codec = RecordCodec(StatusChange, SchemaRegistry.of(settings), FRAUD.status.subject)
    client = producer(settings)
    failed: list[Any] = []
    for made in changes:
        client.produce(
            FRAUD.status.name,
            value=codec.encode(made),
            key=key_of(made.tenant, made.id),
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
        client.poll(0)
    assert client.flush(30) == 0
    assert not failed


def user_event(**changes: Any) -> dict[str, Any]:
    """A valid event of `POST /events` as a client sends it, now."""
    event = {
        "user_id": "u1", "region": "north", "kind": "search", "occurred_at": datetime.now(UTC).isoformat()
    }  # fmt: skip
    return event | changes


def eventually(good: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    """Poll until `good` gives something true."""
    deadline = time.monotonic() + within_s
    while True:
        found = good()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.05)


def on_the_topic(settings: Settings, wanted: set[str]) -> dict[str, Any]:
    """Messages of the events topic by event id, read by a consumer of the test's own."""
    client = consumer(settings, None)
    topic, partitions = FRAUD.source.name, range(FRAUD.source.partitions)
    found: dict[str, Any] = {}
    deadline = time.monotonic() + WITHIN_S
    try:
        ends = {p: watermarks(client, TopicPartition(topic, p), 5)[1] for p in partitions}
        client.assign([TopicPartition(topic, p, 0) for p in partitions])
        left = {partition for partition, end in ends.items() if end}
        while left:
            assert time.monotonic() < deadline, "the topic was not read to its end"
            for message in client.consume(500, timeout=0.2):
                assert message.error() is None
                if message.offset() + 1 >= ends[message.partition()]:
                    left.discard(message.partition())
                id = header(message.headers(), "ce_id") or ""
                if id in wanted:
                    assert id not in found, f"{id} is on Kafka twice"
                    found[id] = message
    finally:
        client.close()
    assert wanted <= found.keys(), f"not on Kafka: {sorted(wanted - found.keys())[:5]}"
    return found
