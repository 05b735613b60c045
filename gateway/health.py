"""Probes: is the process alive, can it serve, and what does it see around it.

- `/livez`: the event loop answers. Nothing else.
- `/health`: 200 while our own parts work. Each dependency is listed; one that is away makes the status
  `degraded`, not the process unhealthy: restarting a gateway does not bring Kafka back.
- `/ready`, `/readyz[?verbose]`: 503 while a request would be refused because something is away.
- `/metrics`: Prometheus.

Checks run in threads of their own each half second, so that an answer takes microseconds and is never
older than a second, however slow a dependency is.
"""

from collections.abc import Mapping
from typing import Any

from core.telemetry.metrics import exposition
from core.telemetry.probe import Check, Probe
from gateway.exchange import Request, Response, json_response
from gateway.principals import PROBE
from gateway.routing import Route

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Health:
    """The probe of a gateway. `needed` dependencies decide readiness; the others are only told."""

    def __init__(self, *, interval_s: float = 0.5) -> None:
        self.probe = Probe(interval_s=interval_s)
        self._own: set[str] = set()
        self._needed: set[str] = set()
        self.draining = False
        self.started = False

    def dependency(self, name: str, check: Check, *, needed: bool) -> None:
        """Something outside: it can degrade us, and take us out where it is `needed`."""
        if needed:
            self._needed.add(name)
        self.probe.check(name, check)

    def part(self, name: str, check: Check) -> None:
        """A part of ours: when it fails we are unhealthy and want a restart."""
        self._own.add(name)
        self.probe.check(name, check)

    def beat(self) -> None:
        """The event loop is alive."""
        self._own.add("loop")
        self.probe.beat("loop", within_s=15.0)

    def checks(self) -> dict[str, str]:
        """Name -> `ok` or what is wrong."""
        found: dict[str, str] = self.probe.health()[1]["checks"]
        return found

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/livez", PROBE, self._live),
            Route("GET", "/health", PROBE, self._health),
            Route("GET", "/ready", PROBE, self._ready),
            Route("GET", "/readyz", PROBE, self._ready),
            Route("GET", "/metrics", PROBE, self._metrics),
        )

    def unready(self, checks: Mapping[str, str]) -> str | None:
        """Why requests should go elsewhere, or None."""
        if self.draining:
            return "draining"
        if not self.started:
            return "starting"
        away = [name for name in sorted(self._needed | self._own) if checks.get(name, "ok") != "ok"]
        return f"{', '.join(away)} not there" if away else None

    async def _live(self, request: Request) -> Response:
        return json_response(200, {"status": "ok"})

    async def _health(self, request: Request) -> Response:
        checks = self.checks()
        if any(checks[name] != "ok" for name in self._own if name in checks):
            return json_response(503, {"status": "failing", "checks": checks})
        degraded = any(value != "ok" for value in checks.values())
        return json_response(200, {"status": "degraded" if degraded else "ok", "checks": checks})

    async def _ready(self, request: Request) -> Response:
        checks = self.checks()
        reason = self.unready(checks)
        body: dict[str, Any] = (
            {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
        )
        if request.option("verbose") is not None:
            body["checks"] = checks
        return json_response(200 if reason is None else 503, body)

    async def _metrics(self, request: Request) -> Response:
        return Response(200, exposition(), content_type=METRICS_TYPE)
