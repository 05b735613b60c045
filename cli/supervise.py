"""The supervisor daemon as `up` starts it: `stack.supervisor`, with its alerts published to Kafka."""

from core.errors import Unavailable
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
    from confluent_kafka import KafkaError, Message

    from schemas.broker import producer
    from schemas.catalog.alerts import ALERTS, SYSTEM_TENANT, Alert
    from schemas.codec import RecordCodec
    from schemas.headers import event_headers
    from schemas.keys import key_of
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
    codec = RecordCodec(Alert, SchemaRegistry.of(settings()), ALERTS.subject)
    outcome: list[KafkaError | None] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        outcome.append(error)

    client = producer(settings())
    client.produce(
        ALERTS.name,
        key=key_of(record.tenant, record.subject),
        value=codec.encode(record),
        headers=event_headers(
            id=record.id,
            source="supervisor",
            type=Alert.spec().full_name,
            time=record.raised_at,
            tenant=record.tenant,
            received_at=record.raised_at,
        ),
        on_delivery=delivered,
    )
    client.flush(PUBLISH_TIMEOUT_S)
    if not outcome or outcome[0] is not None:
        reason = str(outcome[0]) if outcome else f"no acknowledgement in {PUBLISH_TIMEOUT_S:g} s"
        raise Unavailable(f"the alert was not published: {reason}", where=ALERTS.name)


if __name__ == "__main__":
    serve(settings(), raise_alert=publish)
