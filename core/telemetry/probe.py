"""The probe: `/health`, `/ready` and `/metrics` of one process, on loopback, in a thread of its own.

Health tells the checks that the process registered (database, Redis, model, as far as it uses them).
Checks run in the background every half second, so that an answer takes microseconds however slow a
dependency is; one that has not come back within `stale_after_s` counts as failing.

A dependency that is away makes the process `degraded`, answered with 200: a restart would not bring the
dependency back, and would lose what the process holds. `failing`, 503, is what a restart can mend: a loop
that does not keep the heartbeat it promised, and a check registered as `vital`.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from core.settings import LOOPBACK
from core.telemetry.metrics import exposition

Check = Callable[[], None]
"""Returns when all is well, raises with the reason when not. Called from a background thread."""


class Probe:
    """What this process says of itself. Thread-safe."""

    def __init__(self, *, interval_s: float = 0.5, stale_after_s: float = 5.0) -> None:
        self._checks: dict[str, Check] = {}
        self._results: dict[str, tuple[float, str | None]] = {}
        self._beats: dict[str, tuple[float, float]] = {}
        self._vital: set[str] = set()
        self._ready: str | None = "starting"
        self._interval_s = interval_s
        self._stale_after_s = stale_after_s
        self._stop = threading.Event()

    def check(self, name: str, check: Check, *, vital: bool = False) -> None:
        """Register a check; it runs in a thread of its own from now on. `vital`: its failure is ours."""
        if vital:
            self._vital.add(name)
        self._checks[name] = check
        self._results[name] = (time.monotonic(), None)
        threading.Thread(target=self._run, args=(name, check), name=f"check-{name}", daemon=True).start()

    def beat(self, name: str, *, within_s: float = 30.0) -> None:
        """The loop `name` is alive; it must beat again within `within_s` seconds."""
        self._beats[name] = (time.monotonic(), within_s)

    def set_ready(self, ready: bool, reason: str = "") -> None:
        """Ready means that model and connections are there."""
        self._ready = None if ready else (reason or "not ready")

    def health(self) -> tuple[bool, dict[str, Any]]:
        now = time.monotonic()
        checks: dict[str, str] = {}
        for name, (at, error) in list(self._results.items()):
            if error is not None:
                checks[name] = error
            elif now - at > self._stale_after_s:
                checks[name] = f"no answer for {now - at:.0f} s"
            else:
                checks[name] = "ok"
        failing = any(checks[name] != "ok" for name in self._vital)
        degraded = any(value != "ok" for value in checks.values())
        for name, (at, within_s) in list(self._beats.items()):
            late = now - at > within_s
            checks[name] = f"no heartbeat for {now - at:.0f} s" if late else "ok"
            failing = failing or late
        status = "failing" if failing else "degraded" if degraded else "ok"
        return not failing, {"status": status, "checks": checks}

    def ages_s(self) -> dict[str, float]:
        """How long ago each check last came back, in seconds, by name."""
        now = time.monotonic()
        return {name: now - at for name, (at, _) in list(self._results.items())}

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        if self._ready is None:
            return True, {"status": "ready"}
        return False, {"status": "not ready", "reason": self._ready}

    def close(self) -> None:
        self._stop.set()

    def _run(self, name: str, check: Check) -> None:
        while not self._stop.is_set():
            error: str | None = None
            try:
                check()
            except Exception as problem:
                error = f"{type(problem).__name__}: {problem}".splitlines()[0][:300]
            self._results[name] = (time.monotonic(), error)
            self._stop.wait(self._interval_s)


class ProbeServer:
    """Serves a `Probe` on `port` (default: MILLSTREAM_PROBE_PORT, else a free port)."""

    def __init__(self, probe: Probe, port: int | None = None) -> None:
        chosen = port if port is not None else int(os.environ.get("MILLSTREAM_PROBE_PORT", "0"))
        self._server = ThreadingHTTPServer((LOOPBACK, chosen), _handler(probe))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="probe", daemon=True)

    def start(self) -> "ProbeServer":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(probe: Probe) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self._json(*probe.health())
            elif self.path == "/ready":
                self._json(*probe.readiness())
            elif self.path == "/metrics":
                self._answer(200, exposition(), "text/plain; version=0.0.4; charset=utf-8")
            else:
                self._answer(404, b'{"status": "unknown path"}', "application/json")

        def _json(self, good: bool, body: dict[str, Any]) -> None:
            self._answer(200 if good else 503, json.dumps(body).encode(), "application/json")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    return Handler
