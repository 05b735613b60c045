"""The trail of a gateway: `note` and `written`, over the writer's thread."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType

from core.audit_settings import Audit
from core.clock import Clock
from core.errors import MillstreamError, Unavailable
from gateway.audit.addresses import kept_address
from gateway.audit.folding import ADDRESS, Folding
from pipelines.audit.event import AuditEvent
from pipelines.audit.writer import AuditWriter


def _reachable() -> None:
    return


class GatewayTrail:
    """An `AuditTrail`, for one event loop. What is denied is folded; of the detail `address` as much is kept
    as the settings say. `require` raises Unavailable while Kafka is known to be away."""

    def __init__(
        self, writer: AuditWriter, settings: Audit, clock: Clock, require: Callable[[], None] = _reachable
    ) -> None:
        self._writer = writer
        self._settings = settings
        self._clock = clock
        self._require = require
        self._folding = Folding(settings.fold_s)
        self._timer: asyncio.TimerHandle | None = None

    def note(self, event: AuditEvent) -> None:
        event = self._kept(event)
        if event.outcome != "denied":
            self._writer.take(event)
            return
        now = self._clock.monotonic()
        self._tell_due(now)
        first = self._folding.take(event, now)
        if first is not None:
            self._writer.take(first)
        self._wake_later(now)

    async def written(self, event: AuditEvent) -> None:
        self.require()
        error = await self._taken(event)
        if error is not None:
            raise error

    async def finished(self, event: AuditEvent) -> None:
        """`written` for the end of what was done already: where it cannot be kept now it is written later,
        and nothing is raised."""
        try:
            self.require()
        except Unavailable:
            self.note(event)
            return
        await self._taken(event)

    async def _taken(self, event: AuditEvent) -> MillstreamError | None:
        """Why it is not kept, within the time that is waited for it."""
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[MillstreamError | None] = loop.create_future()

        def settle(error: MillstreamError | None) -> None:
            if not kept.done():
                kept.set_result(error)

        def done(error: MillstreamError | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, error)

        self._writer.take(self._kept(event), done)
        try:
            return await asyncio.wait_for(kept, self._settings.kept_s)
        except TimeoutError:
            what = f"the audit trail was not kept within {self._settings.kept_s:g} s"
            return Unavailable(what, code="audit_unavailable", mend="try again once it can be")

    def require(self) -> None:
        """Raises Unavailable where `written` would, as far as is known now."""
        self._writer.check()
        try:
            self._require()
        except Unavailable as away:
            raise Unavailable(
                f"the audit trail cannot be kept: {away.what}",
                code="audit_unavailable",
                mend="try again once it can",
            ) from away

    def tell_rest(self) -> None:
        """What was folded so far, at the end."""
        if self._timer is not None:
            self._timer.cancel()
        for event in self._folding.rest():
            self._writer.take(event)

    def _tell_due(self, now: float) -> None:
        for event in self._folding.due(now):
            self._writer.take(event)

    def _wake_later(self, now: float) -> None:
        due = self._folding.next_due
        if due is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(max(0.05, due - now), self._woken)

    def _woken(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        self._tell_due(now)
        self._wake_later(now)

    def _kept(self, event: AuditEvent) -> AuditEvent:
        given = event.detail.get(ADDRESS)
        if given is None:
            return event
        kept = kept_address(given, self._settings.addresses)
        rest = {name: text for name, text in event.detail.items() if name != ADDRESS}
        return replace(event, detail=MappingProxyType({**rest, ADDRESS: kept} if kept else rest))
