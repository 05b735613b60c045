"""Redis clients by the settings."""

import redis
import redis.asyncio

from core.settings import Settings

TIMEOUT_S = 2.0


def connect(settings: Settings) -> redis.Redis:
    """A synchronous client; connects on first use, every call bounded by two seconds."""
    return redis.Redis.from_url(
        settings.redis.address, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    )


def connect_async(settings: Settings) -> "redis.asyncio.Redis":
    """The same for coroutines, of the event loop that uses it first; close it with `aclose`."""
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        settings.redis.address, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    )
    return client
