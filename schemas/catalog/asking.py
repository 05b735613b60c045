"""Asking over Kafka: a request to a pipeline, and the pieces and the end of its answer."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.record import Int32, Record, record
from schemas.topic import Topic

NAMESPACE = "millstream.asking"
State = Literal["working", "answered", "failed", "expired", "cancelled"]
RETENTION = timedelta(hours=1)


@record(entity="entity", time="asked_at", namespace=NAMESPACE)
class Ask(Record, frozen=True, kw_only=True):
    """A request. A repeat of (tenant, id) is the same request, or its cancelling."""

    entity: Annotated[str, Meta(description="what the request is about; its id where it is about nothing")]
    asked_at: datetime
    pipeline: str
    kind: Annotated[
        Literal["ask", "cancel"], Meta(description="cancel: the asker of this correlation id has left")
    ] = "ask"
    body: Annotated[bytes, Meta(description="JSON")] = b""
    deadline_at: datetime
    streamed: bool = False


class Failure(msgspec.Struct, frozen=True):
    """An error on its way to the asker: what `core.errors` knows of it. kinds: its class, then the bases."""

    kinds: list[str]
    what: str
    code: str
    where: str | None = None
    mend: str | None = None
    fields: dict[str, str] = {}
    retry_after_s: float = 1.0


@record(entity="id", time="replied_at", namespace=NAMESPACE)
class Reply(Record, frozen=True, kw_only=True):
    """Pieces of an answer, or its end."""

    pipeline: str
    replied_at: datetime
    attempt: Annotated[str, Meta(description="pieces of another attempt begin again at 0")]
    number: Annotated[Int32, Meta(description="of the first piece; at the end, how many there were")] = 0
    pieces: list[bytes] = []
    last: bool = False
    state: Annotated[
        State,
        Meta(description="the last three were not answered; expired and cancelled ones may be asked again"),
    ] = "working"
    status: Annotated[Int32, Meta(description="as HTTP means it, where answered")] = 0
    body: Annotated[bytes, Meta(description="JSON, where answered")] = b""
    failure: Failure | None = None


REPLIES = Topic("millstream.asking.replies.v1", Reply, partitions=8, retention=RETENTION, dead_letters=False)


def requests_topic(pipeline: str, *, partitions: int, retention: timedelta = RETENTION) -> Topic:
    """Where the requests to a pipeline wait for it."""
    return Topic(f"{pipeline}.asking.requests.v1", Ask, partitions=partitions, retention=retention)
