"""The audit trail of a gateway: what it is told by itself, and how refusals are kept from flooding it."""
