"""The follower: a thread that keeps the fleet of every model, and hands replies to whoever waits for them."""

import threading
from collections.abc import Callable, Mapping

from core.clock import Clock
from core.errors import MillstreamError, Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from pipelines.serving.fleet import Fleet
from pipelines.serving.log import ServingLog
from schemas.catalog.models import REPLIES, ROUTING, STATES, ModelReply, ModelState, Routing
from schemas.registry import SchemaRegistry

_LOG = logger("serving.follower")
_RETRY_S = 0.5
_WAITERS = 10_000


class Follower:
    """From `start` to `close`. `fleets` and `expect` may be called from any thread."""

    def __init__(self, settings: Settings, registry: SchemaRegistry, clock: Clock) -> None:
        self._settings = settings
        self._registry = registry
        self._clock = clock
        self._fleets: dict[str, Fleet] = {}
        self._waiting: dict[str, Callable[[ModelReply], None]] = {}
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serving-follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Blocks for at most a few seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def check(self) -> None:
        """Raises Unavailable while the topics are not being read."""
        if not self._ready.is_set():
            raise Unavailable("the states of the models are not being read", mend="run `millstream apply`")

    def wait_ready(self, timeout_s: float) -> None:
        self._ready.wait(timeout_s)
        self.check()

    def fleets(self) -> Mapping[str, Fleet]:
        """Per model, living workers only. Raises Unavailable before the topics were read."""
        self.check()
        now = self._clock.now()
        return {model: fleet.living(now) for model, fleet in sorted(dict(self._fleets).items())}

    def expect(self, command: str, told: Callable[[ModelReply], None]) -> None:
        """Call `told` in this object's thread with every reply to a command; register before sending it."""
        if len(self._waiting) >= _WAITERS:
            raise Unavailable("too many commands wait for their reply", code="queue_full")
        self._waiting[command] = told

    def forget(self, command: str) -> None:
        self._waiting.pop(command, None)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                log = ServingLog(
                    self._settings, (ROUTING, STATES, REPLIES), clock=self._clock, registry=self._registry
                )
            except MillstreamError as error:
                _LOG.debug("model serving is not being read", reason=error.what)
                self._stop.wait(_RETRY_S)
                continue
            try:
                self._read(log)
            except MillstreamError as error:
                _LOG.warning("model serving is not being read", reason=error.what)
                self._ready.clear()
                self._stop.wait(_RETRY_S)
            finally:
                log.close()

    def _read(self, log: ServingLog) -> None:
        while not self._stop.is_set():
            for record, _ in log.read(0.2):
                if isinstance(record, Routing):
                    fleet = self._fleets.get(record.model, Fleet())
                    self._fleets[record.model] = fleet.routed(record)
                elif isinstance(record, ModelState):
                    fleet = self._fleets.get(record.model, Fleet())
                    self._fleets[record.model] = fleet.told(record)
                elif isinstance(record, ModelReply):
                    told = self._waiting.get(record.id)
                    if told is not None:
                        told(record)
            if log.caught_up and not self._ready.is_set():
                self._ready.set()
