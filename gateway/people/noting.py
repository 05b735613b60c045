"""What the audit trail is told of users: by id, never by name, and nothing that could log anybody in."""

from core.clock import Clock
from gateway.audit.event import AuditEvent, AuditTrail, Outcome
from gateway.exchange import Request
from gateway.principals import USER


class Notes:
    """Events of one gateway."""

    def __init__(self, trail: AuditTrail, clock: Clock) -> None:
        self.trail = trail
        self._clock = clock

    def note(
        self,
        request: Request,
        action: str,
        outcome: Outcome,
        *,
        user: str = "",
        tenant: str = "",
        target: str = "",
        reason: str = "",
    ) -> None:
        """`user` is an id; nobody is known without."""
        self.trail.note(
            AuditEvent(
                tenant=tenant,
                actor=f"{USER}{user}" if user else "",
                action=action,
                outcome=outcome,
                at=self._clock.now(),
                target=target,
                reason=reason,
                request_id=request.request_id,
                detail={"address": request.address},
            )
        )
