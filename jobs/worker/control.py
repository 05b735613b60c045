"""Control: the threads in which a worker reads its model's routing and tells what it observes.

They are two, so that a worker that loads a large version goes on telling that it is alive.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from core.clock import Clock
from core.errors import MillstreamError
from core.settings import Settings
from core.telemetry.log import logger
from jobs.worker.serving import ModelSource, Serving
from pipelines.outbox import RecordOutbox
from pipelines.serving.log import ServingLog
from schemas import broker
from schemas.catalog.models import ROUTING, STATES, ModelState, Routing
from schemas.record import Record
from schemas.registry import SchemaRegistry

_LOG = logger("worker.control")
READ_S = 0.2
FIRST_S = 10.0
LEAVE_S = 2.0
_RETRY_S = 2.0


class Followed(Protocol):
    """What follows a routing and observes versions; see `Serving`. Called by the threads of `Control`."""

    on_change: Callable[[], None]

    @property
    def routing(self) -> Routing | None: ...

    def start(self, routing: Routing | None = None) -> None: ...

    def follow(self, routing: Routing) -> None: ...

    def told(self, instance: str) -> list[ModelState]: ...

    def leaving(self, instance: str) -> list[ModelState]: ...

    def stop(self) -> None:
        """Begin nothing more: the process ends."""
        ...


F = TypeVar("F", bound=Followed)


class Control(Generic[F]):
    """Follows the control topic: own assignment, no group, from the beginning. The newest revision counts.

    Where there is no control topic, or no routing of this model, `serving` serves the registry's champion,
    and goes over to a routing as soon as there is one. `pipeline` says who serves, in states and metrics.
    """

    def __init__(
        self,
        settings: Settings,
        registry: SchemaRegistry,
        serving: F,
        *,
        model: str,
        pipeline: str,
        clock: Clock,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self.serving = serving
        self._model = model
        self._clock = clock
        self._stop = stop
        self.instance = f"{pipeline}@{socket.gethostname()}:{os.getpid()}"
        self._log: ServingLog | None = None
        self._changed = threading.Event()
        self._telling: threading.Thread | None = None
        self.serving.on_change = self._changed.set

    def start(self) -> None:
        """Put a model in service, by the routing or without, then follow in the background. Raises what
        `Serving.start` raises; may be called again after that."""
        if self._telling is None:
            self._telling = threading.Thread(target=self._tell, name="telling", daemon=True)
            self._telling.start()
        self.serving.start(self._first())
        threading.Thread(target=self._run, name="control", daemon=True).start()

    def close(self) -> None:
        """Follow no more, and tell that this worker leaves; call it once `stop` is set."""
        self.serving.stop()
        self._changed.set()
        if self._telling is not None:
            self._telling.join(LEAVE_S)

    def _first(self) -> Routing | None:
        """The newest routing there is; None without a topic, or with Kafka away."""
        try:
            if self._log is None:
                self._log = self._open()
            records = [*self._log.catch_up(FIRST_S), *self._log.read(0.05)]
            return self._newest(records) or self.serving.routing
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
                self.serving.follow(routing)

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

    def _tell(self) -> None:
        outbox: RecordOutbox | None = None
        while not self._stop.is_set():
            self._changed.wait(self._settings.rollout.tell_s)
            self._changed.clear()
            try:
                if outbox is None:
                    outbox = RecordOutbox(self._settings, self._registry, source=self.instance)
                outbox.publish(STATES, self.serving.told(self.instance), within_s=0)
            except MillstreamError as error:
                _LOG.debug("states are not being told", reason=error.what)
            except Exception:
                _LOG.exception("states are not being told")
        if outbox is not None:
            with suppress(MillstreamError):
                outbox.publish(STATES, self.serving.leaving(self.instance), within_s=LEAVE_S)

    def _open(self) -> ServingLog:
        broker.require(self._settings)
        return ServingLog(self._settings, (ROUTING,), clock=self._clock, registry=self._registry)

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def control_of(
    settings: Settings,
    registry: SchemaRegistry,
    source: ModelSource,
    *,
    model: str,
    pipeline: str,
    clock: Clock,
    stop: threading.Event,
) -> Control[Serving]:
    """The control of what serves the versions of a model that `source` gives."""
    serving = Serving(
        source,
        pipeline=pipeline,
        model=model,
        retries=settings.rollout.health_retries,
        first_batches=settings.rollout.first_batches,
        clock=clock,
    )
    return Control(settings, registry, serving, model=model, pipeline=pipeline, clock=clock, stop=stop)
