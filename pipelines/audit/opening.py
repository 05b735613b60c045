"""A writer of the trail for a process: its chain, its producer, its schema."""

import platform

from core.clock import Clock
from core.settings import Settings
from pipelines.audit.entry import Chain
from pipelines.audit.writer import AuditWriter
from pipelines.outbox import Outbox, codec_of
from schemas import broker
from schemas.catalog.security import SECURITY_EVENTS
from schemas.registry import SchemaRegistry


def open_writer(settings: Settings, registry: SchemaRegistry, clock: Clock, *, kind: str) -> AuditWriter:
    """Started; close it. `kind` names the process, as `gateway`."""
    writer = AuditWriter(
        Chain(kind, host=platform.node()),
        Outbox(lambda: broker.producer(settings, linger_ms=0), settle_s=settings.audit.kept_s),
        codec_of(SECURITY_EVENTS, registry),
        clock,
        queue=settings.audit.queue,
    )
    writer.start()
    return writer
