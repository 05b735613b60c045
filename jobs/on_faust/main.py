"""The Faust process: one agent, one probe, a graceful end."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import faust

from core.errors import Unavailable
from core.settings import Settings
from core.telemetry.log import logger
from core.telemetry.probe import Probe, ProbeServer
from jobs.on_faust import compression
from jobs.on_faust.job import FaustJob
from jobs.on_faust.security import credentials
from jobs.on_faust.source_log import SourceMessage
from jobs.on_faust.windows import TumblingWindows
from jobs.on_flink.clock import Pace, StreamClock

log = logger("jobs.on_faust")
SESSION_S = 10.0  # how long a killed agent's partitions wait for another
SETTLE_S = 0.5
STOP_S = 12.0
BACKOFF_FIRST_S, BACKOFF_LONGEST_S = 0.5, 5.0
_BEAT_S = 120.0  # reading a partition again holds up the loop that tells of itself


def run(
    job: FaustJob, settings: Settings, *, disorder_ms: int | None = None, quiet_ms: int | None = None
) -> None:
    """Compute the job's view until SIGTERM or SIGINT; then commit and leave.

    disorder_ms: overrides the view's bound, in event time.
    quiet_ms: how long, by the wall clock, all partitions are silent before the last windows are let out; by
        default twice the view's own bound, at least 100 ms.

    Serves `/health`, `/ready` and `/metrics`. Kafka or the registry being away is waited out, as long as no
    output was given up. Raises what it cannot go on from; started again it goes on from its checkpoint. Call
    it from the main thread.
    """
    disorder = None if disorder_ms is None else timedelta(milliseconds=disorder_ms)
    quiet = None if quiet_ms is None else timedelta(milliseconds=quiet_ms)
    compression.install()
    probe = Probe()
    server = ProbeServer(probe).start()
    stopping = threading.Event()
    ticking = StreamClock(
        settings,
        job.source.name,
        disorder=job.view.disorder if disorder is None else disorder,
        pace=Pace.of(job.view, quiet),
        beat=lambda: probe.beat("clock"),
    )
    ticker = threading.Thread(target=ticking.run, args=(stopping,), name="clock", daemon=True)
    ticker.start()
    try:
        asyncio.run(_Agent(job, settings, probe, disorder).run())
    finally:
        stopping.set()
        ticker.join(timeout=3.0)
        server.stop()
        probe.close()
    log.info("stopped", job=job.name)


class _Agent:
    """The Faust app of one job, in the running event loop."""

    def __init__(self, job: FaustJob, settings: Settings, probe: Probe, disorder: timedelta | None) -> None:
        self._job = job
        self._settings = settings
        self._probe = probe
        self._disorder = disorder
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        app = self._app()
        topics = {topic.name: _bytes(app, topic.name) for topic in (self._job.rows, self._job.late)}

        def send(topic: str, key: bytes, value: bytes) -> Awaitable[Any]:
            sent: Awaitable[Any] = topics[topic].send_soon(key=key, value=value)
            return sent

        windows = TumblingWindows(self._job, self._settings, send, disorder=self._disorder)
        self._declare(app, windows)
        try:
            await self._patiently(self._open, windows)
            await app.start()
            while not self._stop.is_set() and self._failure is None and not app.crashed:
                await self._patiently(self._look, windows)
                await self._waited(SETTLE_S)
            self._probe.set_ready(False, "stopping")
            failure = self._failure or app.crash_reason
            if failure is not None:
                raise failure
            try:
                await asyncio.wait_for(windows.settle(), STOP_S / 2)
            except (Unavailable, TimeoutError) as error:
                log.warning(
                    "no last checkpoint; the one before it stays", job=self._job.name, error=str(error)
                )
        finally:
            try:
                await asyncio.wait_for(app.stop(), STOP_S / 2)
            except TimeoutError:
                log.warning("Faust did not stop in time; nothing is lost by that", job=self._job.name)
            windows.close()

    async def _patiently(self, attempt: Callable[..., Awaitable[None]], *given: Any) -> None:
        """Until it succeeds, or the end was asked for: Kafka or the registry being away is waited out."""
        delay = BACKOFF_FIRST_S
        while not self._stop.is_set():
            try:
                return await attempt(*given)
            except Unavailable as error:
                log.warning("holds back", job=self._job.name, error=error.what)
                self._probe.set_ready(False, error.what)
                self._probe.beat("agent", within_s=_BEAT_S)
                await self._waited(delay)
                delay = min(2 * delay, BACKOFF_LONGEST_S)

    async def _waited(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

    async def _open(self, windows: TumblingWindows) -> None:
        self._probe.beat("agent", within_s=_BEAT_S)
        await asyncio.to_thread(windows.open)

    async def _look(self, windows: TumblingWindows) -> None:
        """Read what was assigned and not yet read again; commit."""
        self._probe.beat("agent", within_s=_BEAT_S)
        if not windows.ready:
            self._probe.set_ready(False, "partitions are not assigned, or read again")
        await windows.restore()
        await windows.settle()
        self._probe.set_ready(windows.ready, "no partitions assigned yet")

    def _app(self) -> Any:
        folder = self._settings.root / "faust" / self._job.name
        folder.mkdir(parents=True, exist_ok=True)
        return faust.App(
            self._job.name,
            broker=[f"kafka://{address}" for address in self._settings.kafka.address.split(",")],
            broker_credentials=credentials(self._settings.kafka.security),
            broker_session_timeout=SESSION_S,
            broker_heartbeat_interval=SESSION_S / 5,
            consumer_auto_offset_reset="earliest",
            producer_acks=-1,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            datadir=str(folder),
            loop=asyncio.get_running_loop(),
        )

    def _declare(self, app: Any, windows: TumblingWindows) -> None:
        """The agent, one at a time, and what follows from a change of its partitions."""

        @app.agent(_bytes(app, self._job.source.name), concurrency=1)  # type: ignore[untyped-decorator]
        async def compute(stream: Any) -> None:
            async for event in stream.events():
                message = event.message
                at_ms = round(message.timestamp * 1000)
                taken = SourceMessage(message.partition, message.offset, at_ms, message.value)
                try:
                    await self._patiently(windows.take, taken)
                    if windows.crowded:
                        await self._patiently(windows.settle)
                except Exception as failure:
                    self._failure = failure  # Faust would start the agent again, behind the event
                    raise

        @app.on_partitions_assigned.connect  # type: ignore[untyped-decorator]
        async def assigned(app: Any, partitions: Any, **_: Any) -> None:
            numbers = {one.partition for one in partitions if one.topic == self._job.source.name}
            windows.assign(numbers)
            log.info("assigned", job=self._job.name, partitions=sorted(numbers))

        self._kept = (compute, assigned)  # signals hold what they call only weakly


def _bytes(app: Any, topic: str) -> Any:
    return app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
