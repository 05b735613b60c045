"""The job that copies the audit trail to PostgreSQL, and witnesses how long each chain is."""
