"""A trail that goes to the log: for processes without Kafka, and for the commands of an operator."""

from core.telemetry.log import logger
from gateway.audit.event import AuditEvent

_log = logger("security")


class LoggedTrail:
    """An `AuditTrail`."""

    def note(self, event: AuditEvent) -> None:
        _log.info(
            event.action,
            tenant=event.tenant,
            actor=event.actor,
            outcome=event.outcome,
            target=event.target,
            reason=event.reason,
            request_id=event.request_id,
            **event.detail,
        )

    async def written(self, event: AuditEvent) -> None:
        self.note(event)
