"""The registry as the controller sees it: a thread that looks at aliases, so that a slow registry never holds
up a rollout."""

import threading
from collections.abc import Collection, Mapping
from typing import Protocol

from core.errors import MillstreamError
from core.telemetry.log import logger
from models.store import CHAMPION

_LOG = logger("rollout.registry")


class ModelNames(Protocol):
    """The part of a model store or registry that routing needs."""

    def names(self) -> list[str]: ...

    def versions(self, name: str) -> list[str]: ...

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to version."""
        ...


class AliasWatch:
    """From `start` to `stop`. `aliases` is the newest answer, by model; while the registry is away, or what
    it says of a model cannot be read, that of before stays."""

    def __init__(self, registry: ModelNames, *, every_s: float) -> None:
        self._registry = registry
        self._every_s = every_s
        self._stopped = threading.Event()
        self._news = threading.Event()
        self._looking = threading.Lock()
        self._thread: threading.Thread | None = None
        self._versions: dict[str, list[str]] = {}
        self.aliases: Mapping[str, Mapping[str, str]] = {}
        self.looked = False
        """Whether the registry has answered once."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="alias-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def wake(self) -> None:
        """There may be news: look at once."""
        self._news.set()

    @property
    def champions(self) -> dict[str, str]:
        return {name: known[CHAMPION] for name, known in self.aliases.items() if CHAMPION in known}

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

    def look(self) -> None:
        """Ask once: what it finds is newer than the call. Raises what the registry raises where it names no
        models."""
        with self._looking:
            aliases: dict[str, Mapping[str, str]] = {}
            versions: dict[str, list[str]] = {}
            for name in self._registry.names():
                try:
                    versions[name], aliases[name] = (
                        self._registry.versions(name),
                        self._registry.aliases(name),
                    )
                except MillstreamError as error:
                    _LOG.warning("a model cannot be read", model=name, reason=error.what)
                    versions[name] = self._versions.get(name, [])
                    aliases[name] = self.aliases.get(name, {})
            self._versions, self.aliases, self.looked = versions, aliases, True

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._news.clear()
            try:
                self.look()
            except Exception as error:  # a registry is other people's code; routing goes on without it
                known = isinstance(error, MillstreamError)
                _LOG.warning("the registry does not answer", reason=str(error), exc_info=not known)
            self._news.wait(self._every_s)
