"""An alert of the supervisor arrives on the alerts topic as the system's alert record."""

from datetime import UTC, datetime

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from cli.supervise import publish
from core.errors import Unavailable
from core.settings import settings
from schemas.broker import admin, consumer, watermarks
from schemas.catalog.alerts import ALERTS, Alert
from schemas.codec import RecordCodec
from schemas.headers import header
from schemas.registry import SchemaRegistry
from stack.local import Stack
from stack.state import StackAlert

RAISED = StackAlert(
    severity="high",
    kind="restarts",
    source="supervisor",
    subject="worker-7",
    text="worker-7 was restarted more than 3 times in 300 s",
    deduplication_key="restarts:worker-7",
    at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
)


@pytest.mark.services
def test_an_alert_is_published_as_a_record(stack: Stack) -> None:
    del stack
    given = settings()
    registry = SchemaRegistry.of(given)
    codec = RecordCodec(Alert, registry, ALERTS.subject)
    registry.register(ALERTS.subject, codec.text)
    client = admin(given)
    if ALERTS.name not in client.list_topics(timeout=20).topics:
        client.create_topics([NewTopic(ALERTS.name, ALERTS.partitions, 1)])[ALERTS.name].result(20)
    reader = consumer(given, None)
    _, end = watermarks(reader, TopicPartition(ALERTS.name, 0), 20)

    publish(RAISED)

    reader.assign([TopicPartition(ALERTS.name, 0, end)])
    message = reader.poll(20)
    reader.close()
    assert message is not None
    alert = codec.decode(message.value())
    assert (alert.tenant, alert.severity, alert.kind) == ("system", "high", "restarts")
    assert (alert.subject, alert.text, alert.raised_at) == (RAISED.subject, RAISED.text, RAISED.at)
    assert header(message.headers(), "ce_id") == alert.id


def test_an_alert_that_cannot_be_published_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_REGISTRY__URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MILLSTREAM_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    settings.cache_clear()
    try:
        with pytest.raises(Unavailable):
            publish(RAISED)
    finally:
        settings.cache_clear()
