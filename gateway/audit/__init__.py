"""The audit trail: who did what, when, with what outcome, and why it was refused."""
