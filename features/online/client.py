"""A Redis client by the settings."""

import redis

from core.settings import Settings

TIMEOUT_S = 2.0


def connect(settings: Settings) -> redis.Redis:
    """A synchronous client; connects on first use, every call bounded by two seconds."""
    return redis.Redis.from_url(
        settings.redis.address, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    )
