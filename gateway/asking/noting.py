"""Noting: reservations that nobody waits for, those of many requests in one round trip.

An id that was made here is nobody else's, so there is nothing to look at; it is noted so that
`GET /api/v1/requests/{id}` finds the request on any gateway.
"""

import asyncio

from core.errors import MillstreamError
from core.telemetry.log import logger
from pipelines.asking.outcomes import OutcomeStore, Reserved

_LOG = logger("gateway.asking")


class Noting:
    """Belongs to the event loop. What comes while a round trip is on its way goes with the next."""

    def __init__(self, store: OutcomeStore) -> None:
        self._store = store
        self._notes: list[tuple[str, str, Reserved]] = []
        self._task: asyncio.Task[None] | None = None

    def note(self, tenant: str, id: str, reserved: Reserved) -> None:
        self._notes.append((tenant, id, reserved))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._notes:
                notes, self._notes = self._notes, []
                try:
                    await self._store.note(notes)
                except MillstreamError as error:
                    _LOG.debug("requests are not in the store", requests=len(notes), reason=error.what)
        finally:
            self._task = None
