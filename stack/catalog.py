"""The services of the local stack, in start order: Kafka first, all else leans on it.

`ON_REQUEST` are started only where they are named, the balancer also where there is something to balance.
"""

from core.errors import UnknownName
from core.settings import Settings
from stack.balancer import Balancer
from stack.flink import Flink
from stack.kafka import Kafka
from stack.llm import Llm
from stack.postgres import Postgres
from stack.redis import Redis
from stack.registry import Registry
from stack.service import Service

SERVICES: tuple[type[Service], ...] = (Kafka, Registry, Flink, Redis, Postgres)
ON_REQUEST: tuple[type[Service], ...] = (Llm, Balancer)
NAMES = tuple(service.name for service in SERVICES)
ALL_NAMES = NAMES + tuple(service.name for service in ON_REQUEST)


def services(settings: Settings, only: set[str] | None = None) -> tuple[Service, ...]:
    """All services that start by themselves, or those named. Raises `UnknownName` for a name that is none."""
    for name in sorted(only or ()):
        if name not in ALL_NAMES:
            raise UnknownName("service", name, ALL_NAMES)
    if only is None:
        balanced = (Balancer,) if settings.balancer.gateways > 1 else ()
        return tuple(kind(settings) for kind in (*SERVICES, *balanced))
    return tuple(kind(settings) for kind in (*SERVICES, *ON_REQUEST) if kind.name in only)
