"""What the audit trail is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

Outcome = Literal["allowed", "denied", "failed"]


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that somebody did, or was refused.

    tenant: of the credential; empty where there is none.
    actor: the public id of the credential, or `user:<id>`; empty where nobody is known.
    action: a verb of the trail (`login`, `session.revoke`, `role.assign`), or the name of a route
    (`POST /api/v1/models/swap`).
    target: what was acted upon; empty where the action says it all.
    reason: the stable code of the refusal or failure; empty where it was allowed.
    detail: more, in short texts; never a secret, a token, a password or a personal name.
    """

    tenant: str
    actor: str
    action: str
    outcome: Outcome
    at: datetime
    target: str = ""
    reason: str = ""
    request_id: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


class AuditTrail(Protocol):
    """Where events of the trail go."""

    def note(self, event: AuditEvent) -> None:
        """Take an event, to be written soon. Never blocks, never raises; what does not fit is counted."""
        ...

    async def written(self, event: AuditEvent) -> None:
        """`note`, and wait until it is kept. Raises Unavailable where it cannot be."""
        ...
