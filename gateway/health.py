"""Probes: has the process started, is it alive, can it serve, and what does it see around it.

- `/livez`: the event loop answers. Nothing else.
- `/startupz`: 503 until every part of ours has worked once; from then on 200. What is around does not count.
- `/health`: 200 while our own parts work. Each dependency is listed; one that is away makes the status
  `degraded`, not the process unhealthy: restarting a gateway does not bring Kafka back.
- `/ready`, `/readyz[?verbose]`: 503 while a request would be refused because something is away.
- `/metrics`: Prometheus.

Checks run in threads of their own each half second, so that an answer takes microseconds however slow a
dependency is. What a dependency answered longer than a second ago is not told: `no answer` is.

Everybody may ask, so what is told is which check fails and the name of its error; what the error says, an
address for one, is in the log.
"""

from collections.abc import Mapping
from typing import Any

from core.telemetry.log import logger
from core.telemetry.metrics import exposition
from core.telemetry.probe import Check, Probe
from gateway.exchange import Request, Response, json_response
from gateway.principals import PROBE
from gateway.routing import Route

FRESH_S = 1.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_log = logger("gateway.health")


class Health:
    """The probe of a gateway. `needed` dependencies decide readiness; the others are only told."""

    def __init__(self, *, interval_s: float = 0.5) -> None:
        self.probe = Probe(interval_s=interval_s)
        self._own: set[str] = set()
        self._needed: set[str] = set()
        self._worked = False
        self.draining = False
        self.started = False

    def dependency(self, name: str, check: Check, *, needed: bool) -> None:
        """Something outside: it can degrade us, and take us out where it is `needed`."""
        if needed:
            self._needed.add(name)
        self.probe.check(name, _told(name, check))

    def part(self, name: str, check: Check) -> None:
        """A part of ours: when it fails we are unhealthy and want a restart."""
        self._own.add(name)
        self.probe.check(name, _told(name, check))

    def beat(self) -> None:
        """The event loop is alive."""
        self._own.add("loop")
        self.probe.beat("loop", within_s=15.0)

    def checks(self) -> dict[str, str]:
        """Name -> `ok`, the name of an error, or for how long there was no answer."""
        found: dict[str, str] = self.probe.health()[1]["checks"]
        return {name: said.partition(":")[0] for name, said in found.items()}

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/livez", PROBE, self._live, at_once=True),
            Route("GET", "/startupz", PROBE, self._startup, at_once=True),
            Route("GET", "/health", PROBE, self._health, at_once=True),
            Route("GET", "/ready", PROBE, self._ready, at_once=True),
            Route("GET", "/readyz", PROBE, self._ready, at_once=True),
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

    def _failing(self, checks: Mapping[str, str]) -> list[str]:
        return [name for name in sorted(self._own) if checks.get(name, "ok") != "ok"]

    async def _live(self, request: Request) -> Response:
        return json_response(200, {"status": "ok"})

    async def _startup(self, request: Request) -> Response:
        failing = self._failing(self.checks())
        self._worked = self._worked or (self.started and not failing)
        if self._worked:
            return json_response(200, {"status": "started"})
        return json_response(503, {"status": "starting", "waits_for": failing})

    async def _health(self, request: Request) -> Response:
        checks = self.checks()
        if self._failing(checks):
            return json_response(503, {"status": "failing", "checks": checks})
        for name, age_s in self.probe.ages_s().items():
            if name not in self._own and age_s > FRESH_S and checks[name] == "ok":
                checks[name] = f"no answer for {age_s:.1f} s"
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


def _told(name: str, check: Check) -> Check:
    """The check, with what its errors say in the log, once until it is something else."""
    last = ""

    def checked() -> None:
        nonlocal last
        try:
            check()
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            if said != last:
                last = said
                _log.warning("a check fails", check=name, reason=said)
            raise
        last = ""

    return checked
