"""The audit trail: chained entries, on Kafka first and copied to PostgreSQL, and the proof of both."""
