"""The audit trail of one gateway, put together."""

import asyncio
from contextlib import AsyncExitStack

from core.clock import Clock
from core.settings import Settings
from core.telemetry.log import logger
from gateway.audit.trail import GatewayTrail
from gateway.audit.watch import Watch
from gateway.health import Health
from gateway.publisher import Publisher
from pipelines.audit.opening import open_writer
from schemas.registry import SchemaRegistry

CLOSE_S = 3.0
MINUTE_S = 60.0
_log = logger("gateway.audit")


class AuditPart:
    """`trail` is for handlers that tell it themselves, `watch` for the door and the server."""

    def __init__(
        self, settings: Settings, registry: SchemaRegistry, publisher: Publisher, clock: Clock
    ) -> None:
        self._writer = open_writer(settings, registry, clock, kind="gateway")
        self._clock = clock
        self.trail = GatewayTrail(self._writer, settings.audit, clock, lambda: publisher.require(0))
        self.watch = Watch(self.trail, clock)

    def start(self, health: Health, exits: AsyncExitStack) -> None:
        """Tell what was counted each minute, until `exits`, which wait for what is still to be written."""
        exits.push_async_callback(asyncio.to_thread, self._writer.close, CLOSE_S)
        exits.callback(self._tell_rest)
        health.dependency("audit", self._writer.check, needed=False)
        task = asyncio.get_running_loop().create_task(self._each_minute(), name="audit")
        exits.callback(task.cancel)

    def _tell_rest(self) -> None:
        self.watch.flush()
        self.trail.tell_rest()

    async def _each_minute(self) -> None:
        while True:
            await asyncio.sleep(MINUTE_S - self._clock.now().timestamp() % MINUTE_S)
            try:
                self.watch.flush()
            except Exception:
                _log.exception("what was counted is not told")
