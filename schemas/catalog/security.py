"""The audit trail on Kafka: one record for every entry, whoever writes it."""

from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta

from schemas.record import Int64, Record, record
from schemas.topic import Topic


@record(entity="writer", time="at", namespace="millstream.security")
class AuditEntry(Record, frozen=True, kw_only=True):
    """Who did what, when, with what outcome. Entries of one writer are a chain, in order, without gaps."""

    writer: Annotated[str, Meta(description="the process that wrote it; also the message's key")]
    sequence: Annotated[Int64, Meta(description="from 0, the entry that begins the chain")]
    previous: Annotated[str, Meta(description="hash of the entry before; empty in the first")]
    hash: Annotated[str, Meta(description="SHA-256, in hex, of all other fields as canonical JSON")]
    at: datetime
    actor: Annotated[str, Meta(description="public id of a credential, user:<id>, os:<uid>; empty: nobody")]
    action: Annotated[str, Meta(description="a verb of the trail, or method and template of a route")]
    target: Annotated[str, Meta(description="what was acted upon")] = ""
    outcome: Annotated[str, Meta(description="allowed, denied or failed")]
    reason: Annotated[str, Meta(description="stable code of the refusal or failure")] = ""
    request_id: str = ""
    detail: Annotated[dict[str, str], Meta(description="more, never a secret or a body")] = {}


SECURITY_EVENTS = Topic("security.events", AuditEntry, retention=timedelta(days=365), max_bytes=65_536)
TOPICS = (SECURITY_EVENTS, SECURITY_EVENTS.dlq)
