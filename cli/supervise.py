"""The supervisor daemon as `up` starts it: `stack.supervisor`, with its alerts published to Kafka."""

from core.ids import new_id
from core.settings import settings
from stack.state import StackAlert
from stack.supervisor import serve

PUBLISH_TIMEOUT_S = 15.0


def publish(alert: StackAlert) -> None:
    """Produce the alert to the alerts topic; returns when Kafka acknowledged it.

    Raises `Unavailable` when it did not in 15 s, and what the registry raises. The supervisor keeps every
    alert in its own file as well, so nothing is lost when Kafka is the service that keeps dying.
    """
    # imported with the first alert, so that the daemon stays small
    from pipelines.outbox import RecordOutbox
    from schemas.catalog.alerts import ALERTS, SYSTEM_TENANT, Alert
    from schemas.registry import SchemaRegistry

    record = Alert(
        tenant=SYSTEM_TENANT,
        id=new_id(),
        severity="high",
        kind=alert.kind,
        source=alert.source,
        subject=alert.subject,
        text=alert.text,
        deduplication_key=alert.deduplication_key,
        raised_at=alert.at,
    )
    registry = SchemaRegistry.of(settings())
    outbox = RecordOutbox(settings(), registry, source="supervisor", settle_s=PUBLISH_TIMEOUT_S)
    try:
        outbox.publish(ALERTS, [record])
    finally:
        outbox.close()
        registry.close()


if __name__ == "__main__":
    serve(settings(), raise_alert=publish)
