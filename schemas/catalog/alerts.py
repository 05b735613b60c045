"""Alerts: one record for every alert of the system, whoever raises it."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta

from schemas.record import Record, record
from schemas.topic import Topic

Severity = Literal["info", "warning", "high", "critical"]


@record(entity="subject", time="raised_at", namespace="millstream.alerts")
class Alert(Record, frozen=True, kw_only=True):
    """Something somebody should know. Equal (tenant, deduplication_key) mean the same alert again."""

    severity: Severity
    kind: Annotated[str, Meta(description="what kind of alert, e.g. transaction_blocked, restart_loop")]
    source: Annotated[str, Meta(description="the pipeline, job or service that raised it")]
    subject: Annotated[str, Meta(description="what it is about: an entity, a service, a model")]
    text: str
    deduplication_key: str
    raised_at: datetime


ALERTS = Topic("millstream.system.alerts.v1", Alert, partitions=1, retention=timedelta(days=30))
SYSTEM_TENANT = "system"
