"""What the audit trail is told; declared where commands and jobs can tell it too."""

from pipelines.audit.event import AuditEvent, AuditTrail, Outcome

__all__ = ["AuditEvent", "AuditTrail", "Outcome"]
