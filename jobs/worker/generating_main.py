"""The process that answers questions to LLMs over Kafka; several may run, each with slots of its own."""

import asyncio

import uvloop

from core.clock import SystemClock
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe, ProbeServer
from jobs.worker.answering.main import AnsweringHost, stopped_by_signal
from jobs.worker.control import Control
from jobs.worker.generating import GeneratingAnswerer, make_answerer
from jobs.worker.generating_serving import LlmServing
from operators.generate import PIPELINE
from pipelines.generating import REQUESTS
from schemas.registry import SchemaRegistry

_LOG = logger("generating")


def run(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT; then finish what was begun, commit, leave.

    Serves `/health`, `/ready` and `/metrics` from the start; LLM servers that are away are found when they
    come. Call it from the main thread: it installs signal handlers.
    """
    probe = Probe()
    probe.beat("loop")
    server = ProbeServer(probe).start()
    try:
        uvloop.run(_answering(settings, probe))
    finally:
        probe.close()
        server.stop()
    _LOG.info("stopped")


async def _answering(settings: Settings, probe: Probe) -> None:
    stop, clock = stopped_by_signal(), SystemClock()
    answerer: GeneratingAnswerer = make_answerer(settings, clock=clock)
    host = AnsweringHost(settings, PIPELINE, REQUESTS, clock=clock, probe=probe, stop=stop)
    serving = LlmServing(
        answerer.pool, clock=clock, retries=settings.rollout.health_retries, loop=asyncio.get_running_loop()
    )
    control = Control(
        settings,
        SchemaRegistry.of(settings),
        serving,
        model=PIPELINE,
        pipeline=PIPELINE,
        clock=clock,
        stop=stop,
    )
    try:
        # at once, so that it is told how far each server is
        await asyncio.gather(host.waiting(control.start, "waiting for the routing"), answerer.start())
        await host.run(answerer)
    finally:
        await asyncio.to_thread(control.close)
        await answerer.close()
