"""Direct serving of the small model `small`, in a thread with its own event loop."""

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from core.settings import Settings
from jobs.serving.main import serve
from models.load import StoredModels
from models.store import CHAMPION, ModelStore
from tests.models import made

START_S = 120.0


@contextmanager
def direct_serving(settings: Settings) -> Iterator[str]:
    """Serves at the address of the settings until the end; gives it."""
    stop, loops = asyncio.Event(), list[asyncio.AbstractEventLoop]()

    with tempfile.TemporaryDirectory(prefix="millstream-direct-") as folder:
        store = ModelStore(Path(folder), clock=made.CLOCK)
        store.publish("small", made.files(made.booster()), made.DESCRIPTION)
        store.set_alias("small", CHAMPION, "1")

        async def main() -> None:
            loops.append(asyncio.get_running_loop())
            await serve(settings, {"small": StoredModels(store, "small")}, stop=stop)

        thread = threading.Thread(target=lambda: asyncio.run(main()), name="direct", daemon=True)
        thread.start()
        try:
            _await(settings.serving.address, thread)
            yield settings.serving.address
        finally:
            if loops:
                loops[0].call_soon_threadsafe(stop.set)
            thread.join(timeout=30)


def _await(address: str, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if httpx.get(f"{address}/ready", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        assert thread.is_alive(), "direct serving ended"
        assert time.monotonic() < deadline, "direct serving is not ready"
        time.sleep(0.05)
