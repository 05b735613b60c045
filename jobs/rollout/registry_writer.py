"""What the controller writes to the registry: aliases, and each minute the figures of what serves. In a
thread of its own, for a registry may take seconds to answer, or be away."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.clock import Clock
from core.errors import MillstreamError, Unavailable
from core.telemetry.log import logger
from jobs.rollout.aliases import AliasMove
from pipelines.serving.fleet import VersionView

_LOG = logger("rollout.registry")
MOST_FIGURES = 1000
AGAIN_S = 5.0


class RegistryWrites(Protocol):
    """The part of a registry that is written."""

    def settle_aliases(
        self, name: str, champion: str, previous: str | None, *, instead_of: Sequence[str]
    ) -> bool: ...

    def log_metrics(self, name: str, version: str, metrics: Mapping[str, float], at: datetime) -> None: ...


@dataclass(frozen=True)
class Served:
    """The figures of one version at one time."""

    model: str
    version: str
    values: Mapping[str, float]
    at: datetime


class RegistryWriter:
    """From `start` to `stop`. After a move `moved` is called, in the writer's thread; until it has returned,
    `hold` names that model. Moves that could not be made are tried again every five seconds; figures wait,
    the newest thousand.
    """

    def __init__(self, registry: RegistryWrites, moved: Callable[[], None], *, clock: Clock) -> None:
        self._registry = registry
        self._moved = moved
        self._clock = clock
        self._lock = threading.Lock()
        self._due = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._moves: dict[str, AliasMove] = {}
        self._moving: str | None = None
        self._tried: dict[str, tuple[AliasMove, float]] = {}
        self._figures: deque[Served] = deque(maxlen=MOST_FIGURES)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="registry-writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begins nothing more; waits five seconds for what was begun."""
        self._stopped.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def hold(self) -> str | None:
        """Begin no move until `want`; the model whose aliases are being moved at this moment, if any."""
        with self._lock:
            self._moves = {}
            return self._moving

    def want(self, moves: Sequence[AliasMove]) -> None:
        """All that is to be moved, in place of what was."""
        with self._lock:
            self._moves = {move.model: move for move in moves}
            waiting = any(self._is_due(move) for move in moves)
        if waiting:
            self._due.set()

    def log(self, served: Served) -> None:
        """Have the figures logged; while a thousand wait, the oldest gives way."""
        self._figures.append(served)
        self._due.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._due.clear()
            while not self._stopped.is_set() and (move := self._next()) is not None:
                self._move(move)
            if not self._log_next():
                self._due.wait(AGAIN_S)

    def _next(self) -> AliasMove | None:
        with self._lock:
            for move in self._moves.values():
                if self._is_due(move):
                    self._moving = move.model
                    self._tried[move.model] = (move, self._clock.monotonic())
                    return move
        return None

    def _is_due(self, move: AliasMove) -> bool:
        tried = self._tried.get(move.model)
        return tried is None or tried[0] != move or self._clock.monotonic() - tried[1] >= AGAIN_S

    def _move(self, move: AliasMove) -> None:
        try:
            done = self._registry.settle_aliases(
                move.model, move.champion, move.previous, instead_of=move.instead_of
            )
            told = "aliases moved" if done else "somebody else moved the champion, which comes first"
            _LOG.info(told, model=move.model, champion=move.champion, previous=move.previous)
        except Exception as error:  # a registry is other people's code; routing goes on without it
            _LOG.warning(
                "aliases not moved",
                model=move.model,
                champion=move.champion,
                reason=str(error),
                exc_info=not isinstance(error, MillstreamError),
            )
        finally:
            try:
                self._moved()
            except Exception as error:
                _LOG.warning("the registry does not answer", reason=str(error))
            with self._lock:
                self._moving = None

    def _log_next(self) -> bool:
        """Whether there may be more to log now."""
        if not self._figures:
            return False
        one = self._figures.popleft()
        try:
            self._registry.log_metrics(one.model, one.version, one.values, one.at)
        except Unavailable as error:
            _LOG.warning("figures wait: the registry does not answer", reason=error.what)
            if len(self._figures) < MOST_FIGURES:
                self._figures.appendleft(one)
            return False
        except Exception as error:  # of a version that is gone, for one: never to be logged
            _LOG.warning("figures dropped", model=one.model, version=one.version, reason=str(error))
        return bool(self._figures)


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
