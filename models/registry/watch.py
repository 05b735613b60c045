"""Watching the registry: what changed in MLflow since the last look, validated, cached, told one by one.

A look is due every so often and whenever somebody says that there is news (a webhook). Both find changes the
same way, by comparing what MLflow has with what was told, so that none is missed and a false alarm tells
nothing.
"""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from core.errors import MillstreamError, Unavailable
from core.telemetry.log import logger
from models.registry.known import KnownModel
from models.registry.registry import ModelRegistry

_LOG = logger("models.registry.watch")
JITTER = 0.2
LONGEST_BACKOFF = 8
STOP_S = 10.0


@dataclass(frozen=True)
class RegistryChange:
    """One change. `version` is the one added, removed, or under the alias now; `before` the one that was.
    `problem`: why that version must not be served; None: it is in the cache, its digests are right."""

    name: str
    kind: Literal["version_added", "version_removed", "alias_moved", "alias_removed"]
    version: str | None
    alias: str | None = None
    before: str | None = None
    problem: MillstreamError | None = None


@dataclass
class _Told:
    """`refused`: the aliases whose version must not be served."""

    versions: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)


class RegistryWatch:
    """Calls `on_change` from one thread, for one change after the other. At least once: a change whose call
    raised is told again at the next look, and the first look tells where every alias is.

    `every` is varied by a fifth, so that many watchers do not ask at once; while MLflow is away it grows up
    to eightfold. No error ends it.
    """

    def __init__(
        self, registry: ModelRegistry, every: timedelta, on_change: Callable[[RegistryChange], None]
    ) -> None:
        self._registry = registry
        self._every_s = every.total_seconds()
        self._on_change = on_change
        self._told: dict[str, _Told] | None = None
        self._looking = threading.Lock()
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look now, and from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="watch-models", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits for the look in progress, at most ten seconds: MLflow may be slow, and a model large."""
        self._stopped.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def wake(self) -> None:
        """There may be news: look at once."""
        self._news.set()

    def look(self) -> int:
        """Look once; how many changes were told. A model that cannot be read now, or whose change `on_change`
        raised on, does not keep the others from their turn: what was raised first is raised at the end."""
        with self._looking:
            models = self._registry.models()
            first = self._told is None
            told = self._told = self._told if self._told is not None else {}
            count, failed = 0, None
            for name in sorted(models.keys() | told.keys()):
                model = models.get(name, KnownModel(name, {}, {}))
                seen = told.get(name)
                if seen is None:
                    seen = told[name] = _Told(set(_judged(model)) if first else set())
                try:
                    count += self._tell(model, seen)
                except Exception as error:
                    failed = failed or error
                    continue
                if name not in models:
                    del told[name]
            if failed is not None:
                raise failed
            return count

    def _tell(self, model: KnownModel, seen: "_Told") -> int:
        count = 0
        for change in self._changes(model, seen):
            if change.alias is not None and change.problem is None:
                self._registry.remember(model, change.alias)
            self._on_change(change)
            _note(seen, change)
            count += 1
        cached = self._registry.cache.aliases(model.name) if seen.aliases else {}
        lost = [alias for alias in seen.aliases if alias not in cached and alias not in seen.refused]
        if lost:  # damaged in the cache, or taken away there
            self._registry.remember(model, *lost)
        return count

    def _changes(self, model: KnownModel, seen: _Told) -> Iterator[RegistryChange]:
        present = _judged(model)
        for version in (v for v in present if v not in seen.versions):
            yield RegistryChange(model.name, "version_added", version, problem=self._problem(model, version))
        for alias, version in sorted(model.aliases.items()):
            before = seen.aliases.get(alias)
            if before != version:
                problem = self._problem(model, version)
                yield RegistryChange(model.name, "alias_moved", version, alias, before, problem)
        for alias in sorted(seen.aliases.keys() - model.aliases.keys()):
            yield RegistryChange(model.name, "alias_removed", None, alias, seen.aliases[alias])
        for version in sorted(seen.versions - set(present), key=int):
            yield RegistryChange(model.name, "version_removed", version)

    def _problem(self, model: KnownModel, version: str) -> MillstreamError | None:
        try:
            self._registry.resolve(model.name, version)
        except Unavailable:
            raise
        except MillstreamError as error:
            _LOG.error("a version may not be served", model=model.name, version=version, error=error.what)
            return error
        return None

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            self._news.clear()
            try:
                self.look()
                failures = 0
            except Exception as error:
                failures += 1
                known = isinstance(error, MillstreamError)
                _LOG.warning("the registry was not watched", error=str(error), exc_info=not known)
            factor = min(2**failures, LONGEST_BACKOFF) * random.uniform(1 - JITTER, 1 + JITTER)
            self._news.wait(self._every_s * factor)


def _judged(model: KnownModel) -> list[str]:
    """The versions that are somebody's finished work: ours that are whole, and those of others."""
    return [number for number, known in model.versions.items() if known.state != "incomplete"]


def _note(seen: _Told, change: RegistryChange) -> None:
    match change.kind:
        case "version_added":
            seen.versions.add(str(change.version))
        case "version_removed":
            seen.versions.discard(str(change.version))
        case "alias_moved":
            seen.aliases[str(change.alias)] = str(change.version)
            if change.problem is None:
                seen.refused.discard(str(change.alias))
            else:
                seen.refused.add(str(change.alias))
        case "alias_removed":
            seen.aliases.pop(str(change.alias), None)
