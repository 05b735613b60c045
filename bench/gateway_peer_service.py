"""The ordinary service that the gateway is compared with: FastAPI, uvicorn, aiokafka, redis.

Written as its users write such services: pydantic checks the body, the key's hash is looked up in Redis and
remembered for a second, a counter in Redis limits each key, an id is remembered with the digest of its
content, the producer is idempotent and waits for `acks=all`. Asking is a map of futures that a consumer of
the replies resolves; pushing is a consumer that sends each event to every socket.

It runs in an environment of its own (`bench.gateway_peer`) and knows nothing of ours but the Avro schemas.
"""

import asyncio
import hashlib
import io
import itertools
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

import fastavro
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from fastapi import Depends, FastAPI, Header, HTTPException, Response, WebSocket, WebSocketDisconnect
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, create_model

CONFIGURATION = json.loads(os.environ["PEER"])
PER_S, KEY_KNOWN_S, SEEN_S, ANSWER_S = 20_000, 1.0, 86_400, 20.0
AGE, AHEAD = timedelta(days=7), timedelta(minutes=5)


class Avro:
    """Avro behind the registry's header."""

    def __init__(self, name: str) -> None:
        given = CONFIGURATION["schemas"][name]
        self.schema = fastavro.parse_schema(json.loads(given["text"]))
        self._head = b"\x00" + int(given["id"]).to_bytes(4, "big")

    def encode(self, value: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        out.write(self._head)
        fastavro.schemaless_writer(out, self.schema, value)
        return out.getvalue()

    def decode(self, data: bytes) -> Any:
        return fastavro.schemaless_reader(io.BytesIO(data[5:]), self.schema, None)


EVENT, ASK, REPLY, STATUS = (Avro(name) for name in ("event", "ask", "reply", "status"))

Text = Annotated[str, StringConstraints(max_length=255)]
Whole = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Long = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Real = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
TYPES = {"string": Text, "int": Whole, "long": Long, "float": Real, "double": Real}
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:~@+=-]{1,128}$")]


def fields_of(schema: Any) -> dict[str, Any]:
    """The fields of the model, as one would write them down."""
    found: dict[str, Any] = {"tenant": (str | None, None), "id": (Id | None, None)}
    for field in schema["fields"]:
        name, kind = field["name"], field["type"]
        nullable = isinstance(kind, list)
        inner = next(one for one in kind if one != "null") if nullable else kind
        type: Any = AwareDatetime if isinstance(inner, dict) else TYPES[inner]
        if name not in found:
            found[name] = (type | None, None) if nullable else (type, ...)
    return found


Event: type[BaseModel] = create_model(
    "Event", __config__=ConfigDict(extra="forbid"), **fields_of(EVENT.schema)
)


class Accepted(BaseModel):
    id: str
    status: str
    pipeline: str
    received_at: datetime


class Caller(NamedTuple):
    tenant: str
    key: str


class Service:
    """What the handlers share."""

    redis: redis.asyncio.Redis
    producer: AIOKafkaProducer

    def __init__(self) -> None:
        self.keys: dict[str, tuple[float, Caller]] = {}
        self.waiting: dict[str, asyncio.Future[Any]] = {}
        self.epoch = uuid.uuid4().hex
        self.numbers = itertools.count()
        self.sockets: set[WebSocket] = set()

    async def replies(self, consumer: AIOKafkaConsumer) -> None:
        async for message in consumer:
            headers = dict(message.headers)
            future = self.waiting.get(headers.get("correlation_id", b"").decode())
            if future is not None and not future.done():
                future.set_result(REPLY.decode(message.value))

    async def statuses(self, consumer: AIOKafkaConsumer) -> None:
        async for message in consumer:
            status = STATUS.decode(message.value)
            text = json.dumps({"type": "event", "id": status["id"], "data": status}, default=str)
            for socket in list(self.sockets):
                try:
                    await socket.send_text(text)
                except (WebSocketDisconnect, RuntimeError):
                    self.sockets.discard(socket)


service = Service()


async def reading(topic: str, partitions: list[int]) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(bootstrap_servers=CONFIGURATION["kafka"], enable_auto_commit=False)
    await consumer.start()
    places = [TopicPartition(topic, partition) for partition in partitions]
    consumer.assign(places)
    await consumer.seek_to_end(*places)
    for place in places:
        await consumer.position(place)
    return consumer


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    service.redis = redis.asyncio.Redis.from_url(CONFIGURATION["redis"])
    service.producer = AIOKafkaProducer(
        bootstrap_servers=CONFIGURATION["kafka"], acks="all", enable_idempotence=True
    )
    await service.producer.start()
    replies = await reading(CONFIGURATION["replies"], [0])
    statuses = await reading(CONFIGURATION["status"], list(range(CONFIGURATION["partitions"])))
    tasks = [
        asyncio.create_task(service.replies(replies)), asyncio.create_task(service.statuses(statuses))
    ]  # fmt: skip
    yield
    for task in tasks:
        task.cancel()
    await replies.stop()
    await statuses.stop()
    await service.producer.stop()
    await service.redis.aclose()


app = FastAPI(lifespan=lifespan)


async def caller_of(authorization: str) -> Caller:
    """The caller of a key. Raises HTTPException."""
    hash = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
    known = service.keys.get(hash)
    if known is not None and known[0] > time.monotonic():
        return known[1]
    tenant = await service.redis.get(f"key:{hash}")
    if tenant is None:
        raise HTTPException(401, "unauthenticated")
    caller = Caller(tenant.decode(), hash)
    service.keys[hash] = (time.monotonic() + KEY_KNOWN_S, caller)
    return caller


async def limited(authorization: Annotated[str, Header()]) -> Caller:
    """The caller, who has not called too often in this second."""
    caller = await caller_of(authorization)
    counter = f"rate:{caller.key}:{int(time.time())}"
    async with service.redis.pipeline(transaction=False) as pipeline:
        pipeline.incr(counter)
        pipeline.expire(counter, 2)
        count, _ = await pipeline.execute()
    if count > PER_S:
        raise HTTPException(429, "too many requests", {"Retry-After": "1"})
    return caller


def checked(event: BaseModel, caller: Caller) -> dict[str, Any]:
    """The event as it is published. Raises HTTPException."""
    value = event.model_dump()
    if value["tenant"] not in (None, caller.tenant):
        raise HTTPException(422, "the tenant comes from the key")
    now = datetime.now(UTC)
    if not now - AGE <= value["occurred_at"] <= now + AHEAD:
        raise HTTPException(422, "too old, or in the future")
    value["tenant"] = caller.tenant
    value["id"] = value["id"] or str(uuid.uuid4())
    return value


def headers_of(value: dict[str, Any], **more: str) -> list[tuple[str, bytes]]:
    given = {
        "ce_id": value["id"], "ce_tenant": value["tenant"], "ce_time": value["occurred_at"].isoformat(),
        "content-type": "application/avro", **more,
    }  # fmt: skip
    return [(name, text.encode()) for name, text in given.items()]


@app.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/api/v1/pipelines/fraud/events", status_code=202)
async def publish(event: Event, caller: Annotated[Caller, Depends(limited)]) -> Accepted:
    value = checked(event, caller)
    data = EVENT.encode(value)
    if CONFIGURATION["remembers"]:
        seen, digest = f"seen:{caller.tenant}:{value['id']}", hashlib.sha256(data).digest()
        async with service.redis.pipeline(transaction=False) as pipeline:
            pipeline.set(seen, digest, nx=True, ex=SEEN_S)
            pipeline.get(seen)
            _, there = await pipeline.execute()
        if there != digest:
            raise HTTPException(409, "sent before with other content")
    await service.producer.send_and_wait(
        CONFIGURATION["events"],
        data,
        key=f"{caller.tenant}|{value['card_id']}".encode(),
        headers=headers_of(value),
        timestamp_ms=int(value["occurred_at"].timestamp() * 1000),
    )
    received_at = datetime.now(UTC)
    return Accepted(id=value["id"], status="provisional", pipeline="fraud", received_at=received_at)


@app.post("/api/v1/pipelines/fraud/infer")
async def ask(event: Event, caller: Annotated[Caller, Depends(limited)]) -> Response:
    value = checked(event, caller)
    now = datetime.now(UTC)
    deadline = now + timedelta(seconds=ANSWER_S)
    question = {
        "tenant": caller.tenant, "id": value["id"], "entity": value["card_id"], "asked_at": now,
        "pipeline": "fraud", "kind": "ask", "body": json.dumps(value, default=str).encode(),
        "deadline_at": deadline, "streamed": False,
    }  # fmt: skip
    correlation_id = f"{service.epoch}-{next(service.numbers)}"
    service.waiting[correlation_id] = asyncio.get_running_loop().create_future()
    try:
        await service.producer.send(
            CONFIGURATION["requests"],
            ASK.encode(question),
            key=f"{caller.tenant}|{value['card_id']}".encode(),
            headers=headers_of(
                value,
                correlation_id=correlation_id,
                reply_to=f"{CONFIGURATION['replies']}/0",
                deadline=str(int(deadline.timestamp() * 1000)),
            ),
        )
        reply = await asyncio.wait_for(service.waiting[correlation_id], ANSWER_S)
    except TimeoutError:
        raise HTTPException(504, "no answer in time") from None
    finally:
        service.waiting.pop(correlation_id, None)
    return Response(reply["body"], reply["status"], media_type="application/json")


@app.websocket("/api/v1/stream")
async def stream(socket: WebSocket) -> None:
    try:
        await caller_of(socket.headers.get("authorization", ""))
    except HTTPException:
        await socket.close(4401)
        return
    await socket.accept()
    service.sockets.add(socket)
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        service.sockets.discard(socket)
