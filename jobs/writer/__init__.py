"""The writer: one process that takes what the stream produced to Redis, Delta and PostgreSQL.

Each sink has a name, a consumer group and a thread of its own, so that none waits for another.
"""
