"""`GET /api/v1/features/{view}/{entity}`: what a view's features are now, for an entity of the caller's.

An entity that was never seen is no error: its features have their empty values and status `missing`.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import redis.exceptions

from core.clock import Clock
from core.errors import Unavailable, UnknownName
from gateway.exchange import Request, Response, json_response


class Reading(Protocol):
    """Features as of a time: values and statuses by feature name."""

    @property
    def values(self) -> Mapping[str, Any]: ...

    @property
    def statuses(self) -> Mapping[str, str]: ...

    @property
    def event_time(self) -> datetime | None: ...

    @property
    def truncated(self) -> bool: ...


class ReadsFeatures(Protocol):
    """The online form of one view (`features.online.rolling.RollingStore`)."""

    def read(self, tenant: str, entity: str, at: datetime, own: Mapping[str, Any] | None) -> Reading: ...


class FeaturesEndpoint:
    """The handler; `stores` by view name."""

    def __init__(self, stores: Mapping[str, ReadsFeatures], clock: Clock) -> None:
        self._stores = stores
        self._clock = clock

    async def get(self, request: Request) -> Response:
        view = request.parameters["view"]
        store = self._stores.get(view)
        if store is None:
            raise UnknownName("view", view[:100], self._stores)
        entity, now = request.parameters["entity"], self._clock.now()
        try:
            found = await asyncio.to_thread(store.read, request.principal.tenant, entity, now, None)
        except (redis.exceptions.RedisError, OSError) as error:
            raise Unavailable("the online store is away", code="features_unavailable") from error
        return json_response(
            200,
            {
                "view": view,
                "entity": entity,
                "as_of": now,
                "event_time": found.event_time,
                "truncated": found.truncated,
                "features": found.values,
                "statuses": found.statuses,
            },
        )
