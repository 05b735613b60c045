"""Following without asking: aliases and versions from the cache; what is missing or damaged there is fetched
by a short process.

A process that serves never imports MLflow: that takes seconds, in which no other thread of it gets far, and
memory for as long as it lives. So whatever only MLflow can give is brought by a child
(`models.registry.fetching`) into the cache that both have, and verified there by both.
"""

import subprocess
import sys

import msgspec

from core.clock import Clock, SystemClock
from core.errors import InvalidInput, MillstreamError, ModelRefused, Unavailable, UnknownName
from core.structs import ready
from core.telemetry.log import logger
from models.registry.registry import ModelRegistry
from models.store import CHAMPION, StoredModel, is_version

_LOG = logger("models.registry")
FETCH_S = 600.0
PAUSE_S = 10.0


@ready
class Wanted(msgspec.Struct, frozen=True):
    """What the child is told: where MLflow and the cache are, and what to bring."""

    uri: str
    folder: str | None
    timeout_s: int
    cache: str
    name: str
    reference: str


@ready
class Brought(msgspec.Struct, frozen=True):
    """What the child says at its end: the version, or why not."""

    version: str | None = None
    kind: str = ""
    what: str = ""
    where: str | None = None
    mend: str | None = None
    code: str = ""


class Following:
    """What a worker resolves with. An alias is where the cache says, which whoever moves or watches aliases
    on this machine keeps; so no worker waits for MLflow while its version is cached."""

    def __init__(self, registry: ModelRegistry, *, clock: Clock | None = None) -> None:
        self._registry = registry
        self._clock = clock or SystemClock()
        self._failed: dict[tuple[str, str], tuple[MillstreamError, float]] = {}

    def resolve(self, name: str, reference: str = CHAMPION) -> StoredModel:
        """See `ModelRegistry.resolve`. An alias that could not be fetched is asked for again after ten
        seconds: who follows one asks every second."""
        cache = self._registry.cache
        try:
            version = reference if is_version(reference) else cache.pointer(name, reference)
            if version is not None and cache.holds(name, version):
                return self._mending(cache.resolve(name, reference))
        except (ModelRefused, UnknownName) as error:  # unknown: just being replaced
            _LOG.warning("damaged in the cache", model=name, reference=reference, reason=error.what)
        if is_version(reference):
            return self._fetched(name, reference)
        failed = self._failed.get((name, reference))
        if failed is not None and self._clock.monotonic() < failed[1]:
            raise failed[0]
        try:
            return self._fetched(name, reference)
        except MillstreamError as error:
            self._failed[name, reference] = (error, self._clock.monotonic() + PAUSE_S)
            raise

    def _mending(self, stored: StoredModel) -> StoredModel:
        return stored.mended_by(lambda: self._fetched(stored.name, stored.version))

    def _fetched(self, name: str, reference: str) -> StoredModel:
        """The version in the cache, whole. Raises what `ModelRegistry.fetch` raises, and Unavailable where
        the child does not end."""
        registry, place = self._registry, self._registry.connection.place
        wanted = Wanted(
            uri=place.uri,
            folder=None if place.folder is None else str(place.folder.resolve()),
            timeout_s=registry.connection.timeout_s,
            cache=str(registry.cache.root.resolve()),
            name=name,
            reference=reference,
        )
        where = f"model {name} {reference} in {registry.where}"
        _LOG.info("fetching", where=where)
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", "models.registry.fetching"],
                input=msgspec.json.encode(wanted),
                capture_output=True,
                timeout=FETCH_S,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"not fetched within {FETCH_S:g} s", where=where) from None
        said = ended.stdout.strip().rpartition(b"\n")[2]
        try:
            brought = msgspec.json.decode(said, type=Brought)
        except msgspec.DecodeError:
            last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise Unavailable(
                f"the process that fetches ended with {ended.returncode}: {last[:300]}", where=where
            ) from None
        if brought.version is None:
            raise _error(brought)
        return registry.cache.resolve(name, brought.version)


def told(error: MillstreamError) -> Brought:
    """An error as the child tells of it."""
    if isinstance(error, ModelRefused):
        kind = "refused"
    elif isinstance(error, UnknownName):
        kind = "unknown"
    elif isinstance(error, InvalidInput):
        kind = "input"
    else:
        kind = "unavailable"
    return Brought(None, kind, error.what, error.where, error.mend, error.code)


def _error(brought: Brought) -> MillstreamError:
    if brought.kind == "unknown":
        unknown = UnknownName("model", "", [], where=brought.where)
        unknown.what, unknown.mend, unknown.code = brought.what, brought.mend, brought.code
        return unknown
    made: type[MillstreamError] = {"refused": ModelRefused, "input": InvalidInput}.get(
        brought.kind, Unavailable
    )
    return made(brought.what, where=brought.where, mend=brought.mend, code=brought.code)
