"""How far the trail has been copied from Kafka to PostgreSQL."""

GROUP = "audit.trail"
"""The consumer group of who copies."""
