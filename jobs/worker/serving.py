"""Serving: the model in service, followed from the registry's `champion` alias.

A background thread asks for the alias. When it names another version, that version is loaded and verified
(digest, signature, golden outputs) beside the one in service, and only then offered; the loop takes it over
between two batches. A version that is refused is logged, counted, and not tried again until the alias moves.
"""

import threading
from typing import Protocol

from core.errors import MillstreamError, ModelError
from core.telemetry.log import logger
from jobs.worker import metrics
from operators.ports import Scorer

_LOG = logger("worker.serving")


class ModelSource(Protocol):
    """Where models come from."""

    def champion(self) -> str:
        """The version in the champion's place. Raises MillstreamError when there is none or no answer."""
        ...

    def load(self, version: str) -> Scorer:
        """That version, verified and warm. Raises ModelRefused when it does not pass."""
        ...


class Serving:
    """Holds the scorer in service. `current` is called by the loop, `follow` runs in a thread."""

    def __init__(self, source: ModelSource, *, pipeline: str, every_s: float = 2.0) -> None:
        self._source = source
        self._pipeline = pipeline
        self._every_s = every_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._scorer: Scorer | None = None
        self._asked = ""
        self._refused = ""

    @property
    def current(self) -> Scorer:
        """The scorer in service; raises ModelError before `start`."""
        if self._scorer is None:
            raise ModelError("no model is in service", mend="start serving first")
        return self._scorer

    def start(self) -> None:
        """Load the champion, raising what the source raises, then follow it in the background."""
        version = self._source.champion()
        self._take(version)
        threading.Thread(target=self._follow, name="follow-champion", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def refresh(self, *, again: bool = False) -> bool:
        """Ask once; True when a model went into service. Never raises: the previous model stays.

        `again` loads the champion even where it is in service or was refused; for a model that broke."""
        with self._lock:
            return self._refresh(again)

    def _refresh(self, again: bool) -> bool:
        try:
            version = self._source.champion()
        except MillstreamError as error:
            _LOG.warning("the champion is not known, the model in service stays", error=error.what)
            return False
        if not again and version in (self._asked, self._refused):
            return False
        try:
            self._take(version)
        except MillstreamError as error:
            self._refused = version
            metrics.MODEL_REFUSED.labels(self._pipeline).inc()
            _LOG.error("model refused, the one in service stays", version=version, error=str(error))
            return False
        return True

    def _take(self, version: str) -> None:
        scorer = self._source.load(version)
        self._scorer = scorer
        self._asked, self._refused = version, ""
        metrics.MODEL_SWAPPED.labels(self._pipeline).inc()
        _LOG.info("model in service", model=scorer.name, version=scorer.version)

    def _follow(self) -> None:
        while not self._stop.wait(self._every_s):
            self.refresh()
