"""The registry as the controller sees it: a thread that looks at aliases and logs metrics, so that a slow
registry never holds up a rollout."""

import queue
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.errors import MillstreamError
from core.telemetry.log import logger
from pipelines.serving.fleet import VersionView

_LOG = logger("rollout.registry")
CHAMPION = "champion"
WAITING = 1000


class ModelNames(Protocol):
    """The part of a model store or registry that routing needs."""

    def names(self) -> list[str]: ...

    def versions(self, name: str) -> list[str]: ...

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to version."""
        ...


class MetricsLog(Protocol):
    """Where the figures of serving versions go, once a minute."""

    def log_metrics(self, name: str, version: str, metrics: Mapping[str, float], at: datetime) -> None: ...


@dataclass(frozen=True)
class Served:
    """The figures of one version at one time."""

    model: str
    version: str
    values: Mapping[str, float]
    at: datetime


class ChampionWatch:
    """From `start` to `stop`. `champions` is the newest answer; while the registry is away it stays."""

    def __init__(self, registry: ModelNames, metrics: MetricsLog, *, every_s: float) -> None:
        self._registry = registry
        self._metrics = metrics
        self._every_s = every_s
        self._stop = threading.Event()
        self._versions: dict[str, list[str]] = {}
        self._served: queue.Queue[Served] = queue.Queue(WAITING)
        self.champions: Mapping[str, str] = {}
        self.looked = False
        """Whether the registry has answered once."""

    def start(self) -> None:
        threading.Thread(target=self._run, name="registry-watch", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def registered(self, model: str, version: str | None) -> Collection[str] | None:
        """The versions of a model, asked anew when `version` is not among the known ones; None when the
        registry does not answer."""
        known = self._versions.get(model, [])
        if version in known:
            return known
        try:
            return self._registry.versions(model)
        except MillstreamError as error:
            _LOG.warning("the registry does not answer", reason=error.what)
            return None

    def champion_of(self, model: str) -> str | None:
        """Asked anew; None when there is none, or no answer."""
        try:
            return self._registry.aliases(model).get(CHAMPION)
        except MillstreamError as error:
            _LOG.warning("the registry does not answer", reason=error.what)
            return None

    def log(self, served: Served) -> None:
        """Have the figures logged; dropped while a thousand others wait."""
        try:
            self._served.put_nowait(served)
        except queue.Full:
            _LOG.warning("figures dropped: the registry takes none", model=served.model)

    def look(self) -> None:
        """Ask once. Raises what the registry raises."""
        champions: dict[str, str] = {}
        versions: dict[str, list[str]] = {}
        for name in self._registry.names():
            versions[name] = self._registry.versions(name)
            champion = self._registry.aliases(name).get(CHAMPION)
            if champion is not None:
                champions[name] = champion
        self._versions, self.champions, self.looked = versions, champions, True

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
                while not self._served.empty():
                    one = self._served.get_nowait()
                    self._metrics.log_metrics(one.model, one.version, one.values, one.at)
            except Exception as error:  # a registry is other people's code; routing goes on without it
                what = (
                    error.what if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
                )
                _LOG.warning("the registry does not answer", reason=what)
            self._stop.wait(self._every_s)


def figures_of(view: VersionView) -> dict[str, float]:
    """What is logged of a version: counts of the last minute, latency, health and its scores' quartiles."""
    values = {
        "records": float(view.records),
        "errors": float(view.errors),
        "latency_ms": view.latency_ms,
        "health": view.health,
        "share": view.share,
    }
    total, seen = sum(view.scores), 0
    if total:
        width = 100.0 / len(view.scores)
        middles = [(bucket + 0.5) * width for bucket in range(len(view.scores))]
        values["score_mean"] = sum(m * n for m, n in zip(middles, view.scores, strict=True)) / total
        wanted = {"score_p25": 0.25, "score_p50": 0.5, "score_p75": 0.75, "score_p95": 0.95}
        for bucket, count in enumerate(view.scores):
            seen += count
            for name in [name for name, part in wanted.items() if seen >= part * total]:
                values[name] = middles[bucket]
                del wanted[name]
    return values
