"""The serving process: models loaded and followed as workers follow them, one HTTP listener, a clean end.

Each model has the thread that reads its routing and the one that tells its states. With Kafka away, or
without a routing, the registry's champion serves (docs/adr/0014).
"""

import asyncio
import signal
import threading
from collections.abc import Mapping

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian

from core import collector
from core.clock import SystemClock
from core.errors import InvalidInput, MillstreamError, StackError
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe
from jobs.serving.application import Application
from jobs.serving.models import Models, Served
from jobs.worker.control import Control, control_of
from jobs.worker.serving import ModelSource, Serving
from models.load import StoredModels
from models.registry import Following, open_registry
from models.store import CHAMPION, Registry
from operators.batching import Bounds
from schemas.registry import SchemaRegistry

STOP_S = 10.0
RETRY_S = 2.0
WHO = "serving"
_LOG = logger("serving")


def run(settings: Settings, names: list[str] | None = None) -> None:
    """Serve these models (all that the store has) until SIGTERM or SIGINT.

    A model that is not there yet is waited for; until then `/ready` says so. Raises InvalidInput where there
    is no model to wait for, and StackError when the port is taken.
    """
    uvloop.run(_until_signal(settings, sources(settings, names)))


def sources(settings: Settings, names: list[str] | None = None) -> dict[str, ModelSource]:
    """Where each model comes from: the registry of the settings, by way of its cache. Without names those are
    served whose champions are in the cache, or where it is empty all that the registry has."""
    registry = open_registry(settings)
    chosen = names or _champions(registry.cache) or _champions(registry)
    if not chosen:
        raise InvalidInput("there is no model to serve", mend="train one, or name it with --model")
    own = settings.serving
    store = Following(registry)
    return {name: StoredModels(store, name, threads=own.threads, engine=own.engine) for name in chosen}


def _champions(registry: Registry) -> list[str]:
    return [name for name in registry.names() if CHAMPION in registry.aliases(name)]


async def _until_signal(settings: Settings, found: Mapping[str, ModelSource]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, found, stop=stop)


async def serve(settings: Settings, found: Mapping[str, ModelSource], *, stop: asyncio.Event) -> None:
    """`run` inside a loop of the caller's, until `stop` is set."""
    own = settings.serving
    bounds = Bounds(rows=own.rows, wait_s=own.wait_ms / 1000, queued=own.queued_rows)
    registry, leave = SchemaRegistry.of(settings), threading.Event()
    controls = {
        name: control_of(
            settings, registry, source, model=name, pipeline=WHO, clock=SystemClock(), stop=leave
        )
        for name, source in found.items()
    }
    served = {
        name: Served(name, control.serving, bounds, timeout_s=own.timeout_s)
        for name, control in controls.items()
    }
    probe = Probe()
    granian = Granian(
        Application(Models(served), own, probe),
        address=own.host,
        port=own.port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        log_enabled=False,
        http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=64 * 1024),
    )
    loop = asyncio.get_running_loop()
    listening = loop.create_task(granian.serve(), name="granian")
    loading = loop.create_task(_load(controls, probe), name="load models")
    stopped = loop.create_task(stop.wait())
    beat = loop.create_task(_beat(probe))
    try:
        await asyncio.wait({listening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            reason = listening.exception() if not listening.cancelled() else None
            raise StackError(
                f"the server ended: {reason or 'it says no reason'}",
                where=f"{own.host}:{own.port}",
                mend="see whether the port is taken, or set MILLSTREAM_SERVING__PORT",
            )
        probe.set_ready(False, "draining")
        granian.stop()
        await asyncio.wait({listening}, timeout=STOP_S)
        for one in served.values():
            await one.batching.close()
    finally:
        for task in (stopped, loading, beat, listening):
            task.cancel()
        await asyncio.gather(stopped, loading, beat, listening, return_exceptions=True)
        leave.set()
        for control in controls.values():
            await loop.run_in_executor(None, control.close)
        probe.close()


async def _load(controls: Mapping[str, Control[Serving]], probe: Probe) -> None:
    """Start every model in a thread, again and again until it is there; then the process is ready."""
    loop = asyncio.get_running_loop()
    for name, control in controls.items():
        while True:
            try:
                await loop.run_in_executor(None, control.start)
                break
            except MillstreamError as error:
                _LOG.warning("waiting for a model", model=name, error=str(error), retry_in_s=RETRY_S)
                probe.set_ready(False, f"model {name}: {error.what}")
            await asyncio.sleep(RETRY_S)
    collector.calm()
    probe.set_ready(True)
    _LOG.info("serving", models=sorted(controls))


async def _beat(probe: Probe) -> None:
    while True:
        probe.beat("loop", within_s=15.0)
        await asyncio.sleep(1.0)
