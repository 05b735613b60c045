"""The process that makes vectors: the model fetched and loaded, one HTTP listener, a clean end."""

import asyncio
import signal
from collections.abc import Callable

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian

from core import collector
from core.errors import MillstreamError, StackError
from core.settings import LOOPBACK, Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe
from jobs.embedding.application import Application
from jobs.embedding.queue import EmbeddingQueue
from models.embedding.encoder import Encoder, Encoding
from models.embedding.weights import fetch

STOP_S = 10.0
RETRY_S = 5.0
_LOG = logger("embedding")
Load = Callable[[], Encoding]


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. The model is fetched first, where it is not in the cache; until then
    `/ready` says so. Raises StackError when the port is taken."""
    uvloop.run(_until_signal(settings))


async def _until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    own = settings.embeddings
    await serve(settings, lambda: Encoder.load(fetch(settings.cache), threads=own.threads), stop=stop)


async def serve(settings: Settings, load: Load, *, stop: asyncio.Event) -> None:
    """`run` inside a loop of the caller's, until `stop` is set."""
    own, probe = settings.embeddings, Probe()
    queue = EmbeddingQueue(own)
    granian = Granian(
        Application(queue, own, probe),
        address=LOOPBACK,
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
    loading = loop.create_task(_load(queue, load, probe), name="load the model")
    stopped = loop.create_task(stop.wait())
    beat = loop.create_task(_beat(probe))
    try:
        await asyncio.wait({listening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            reason = listening.exception() if not listening.cancelled() else None
            raise StackError(
                f"the server ended: {reason or 'it says no reason'}",
                where=f"{LOOPBACK}:{own.port}",
                mend="see whether the port is taken, or set MILLSTREAM_EMBEDDINGS__PORT",
            )
        probe.set_ready(False, "draining")
        granian.stop()
        await asyncio.wait({listening}, timeout=STOP_S)
    finally:
        for task in (stopped, loading, beat, listening):
            task.cancel()
        await asyncio.gather(stopped, loading, beat, listening, return_exceptions=True)
        queue.close()
        probe.close()


async def _load(queue: EmbeddingQueue, load: Load, probe: Probe) -> None:
    probe.set_ready(False, "the model is being fetched and loaded")
    while True:
        try:
            queue.encoder = await asyncio.get_running_loop().run_in_executor(None, load)
            break
        except MillstreamError as error:
            _LOG.warning("waiting for the model", error=str(error), retry_in_s=RETRY_S)
            probe.set_ready(False, error.what)
        await asyncio.sleep(RETRY_S)
    collector.calm()
    probe.set_ready(True)
    _LOG.info("serving")


async def _beat(probe: Probe) -> None:
    while True:
        probe.beat("loop", within_s=15.0)
        await asyncio.sleep(1.0)
