"""Control: the thread in which a worker reads its model's routing and tells what it observes."""

import os
import socket
import threading
from collections.abc import Iterable

from core.clock import Clock
from core.errors import MillstreamError
from core.settings import Settings
from core.telemetry.log import logger
from jobs.worker.serving import Serving
from pipelines.serving.log import ServingLog, ServingOutbox
from schemas.catalog.models import ROUTING, STATES, Routing
from schemas.record import Record
from schemas.registry import SchemaRegistry

_LOG = logger("worker.control")
READ_S = 0.2
FIRST_S = 10.0
_RETRY_S = 2.0


class Control:
    """Follows the control topic: own assignment, no group, from the beginning. The newest revision counts.

    Where there is no control topic, or no routing of this model, `serving` serves the registry's champion,
    and goes over to a routing as soon as there is one.
    """

    def __init__(
        self,
        settings: Settings,
        registry: SchemaRegistry,
        serving: Serving,
        *,
        model: str,
        pipeline: str,
        clock: Clock,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._serving = serving
        self._model = model
        self._clock = clock
        self._stop = stop
        self.instance = f"{pipeline}@{socket.gethostname()}:{os.getpid()}"
        self._outbox: ServingOutbox | None = None
        self._log: ServingLog | None = None
        self._told_at = 0.0
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._alone = True
        """Until the thread runs, the caller of `start` tells."""
        serving.on_change = self._tell_now

    def start(self) -> None:
        """Put a model in service, by the routing or without, then follow in the background. Raises what
        `Serving.start` raises; may be called again after that."""
        routing = self._first()
        try:
            self._serving.start(routing)
        finally:
            self._tell_now()
        self._alone = False
        self._thread.start()

    def _first(self) -> Routing | None:
        """The newest routing there is; None without a topic, or with Kafka away."""
        try:
            if self._log is None:
                self._log = self._open()
            records = [*self._log.catch_up(FIRST_S), *self._log.read(0.05)]
            return self._newest(records) or self._serving.routing
        except MillstreamError as error:
            _LOG.info("no routing to follow yet, the registry's champion serves", reason=error.what)
            self._close()
            return None

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._log is None:
                    self._log = self._open()
                self._follow(self._log)
            except MillstreamError as error:
                _LOG.debug("routing is not being read, what serves stays", reason=error.what)
                self._close()
                self._stop.wait(_RETRY_S)
            except Exception:
                _LOG.exception("control failed; it starts again")
                self._close()
                self._stop.wait(_RETRY_S)
        self._close()

    def _follow(self, log: ServingLog) -> None:
        while not self._stop.is_set():
            routing = self._newest(log.read(READ_S))
            if routing is not None:
                self._serving.follow(routing)
            every = self._settings.rollout.tell_s
            if self._changed.is_set() or self._clock.monotonic() - self._told_at >= every:
                self._tell()

    def _newest(self, records: Iterable[tuple[Record, int]]) -> Routing | None:
        newest: Routing | None = None
        for record, _ in records:
            if (
                isinstance(record, Routing)
                and record.model == self._model
                and (newest is None or record.revision > newest.revision)
            ):
                newest = record
        return newest

    def _tell_now(self) -> None:
        if self._alone or threading.current_thread() is self._thread:
            try:
                self._tell()
            except MillstreamError as error:
                _LOG.debug("states are not being told", reason=error.what)
        else:
            self._changed.set()

    def _tell(self) -> None:
        self._changed.clear()
        self._told_at = self._clock.monotonic()
        if self._outbox is None:
            self._outbox = ServingOutbox(self._settings, self._registry, source=self.instance)
        self._outbox.publish(STATES, self._serving.told(self.instance), wait_s=0)

    def _open(self) -> ServingLog:
        return ServingLog(self._settings, (ROUTING,), clock=self._clock, registry=self._registry)

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
