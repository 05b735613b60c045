"""The services of the local stack, in start order: Kafka first, all else leans on it."""

from core.errors import UnknownName
from core.settings import Settings
from stack.flink import Flink
from stack.kafka import Kafka
from stack.postgres import Postgres
from stack.redis import Redis
from stack.registry import Registry
from stack.service import Service

SERVICES: tuple[type[Service], ...] = (Kafka, Registry, Flink, Redis, Postgres)
NAMES = tuple(service.name for service in SERVICES)


def services(settings: Settings, only: set[str] | None = None) -> tuple[Service, ...]:
    """All services, or those named. Raises `UnknownName` for a name that is none."""
    for name in sorted(only or ()):
        if name not in NAMES:
            raise UnknownName("service", name, NAMES)
    return tuple(kind(settings) for kind in SERVICES if only is None or kind.name in only)
