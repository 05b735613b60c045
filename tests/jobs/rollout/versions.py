"""Versions of a formula in a folder: a store that tests write to while processes read it.

    FOLDER/MODEL/champion       the alias, as text; previous, too
    FOLDER/MODEL/<n>.json       what is special about version n, see `Traits`

Version n adds n/100 of a point to the score, so that every result shows which version computed it.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from core.errors import ModelRefused, UnknownName
from operators.ports import Matrix
from tests.jobs.worker.payments import Formula

STEP = 0.01


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """refused: at load. unhealthy: so many health checks fail. breaks_after: calls until it works no more.
    fails_above: amounts it raises on. load_s, call_s: how long it takes."""

    refused: bool = False
    unhealthy: int = 0
    breaks_after: int | None = None
    fails_above: float | None = None
    load_s: float = 0.0
    call_s: float = 0.0


class Version(Formula):
    """The formula with the traits of its version."""

    def __init__(self, name: str, version: str, traits: Traits) -> None:
        super().__init__(version)
        self.name = name  # type: ignore[misc]
        self.traits = traits
        self.calls = 0
        self.checks = 0

    def score(self, matrix: Matrix) -> Matrix:
        time.sleep(self.traits.call_s)
        self.calls += 1
        if self.traits.breaks_after is not None and self.calls > self.traits.breaks_after:
            self.broken = True
        if self.traits.fails_above is not None and (matrix[:, 0] > self.traits.fails_above).any():
            raise RuntimeError("too much for this version")
        scores = super().score(matrix) + np.float32(int(self.version) * STEP / 100)
        return scores.astype(np.float32)  # type: ignore[no-any-return]

    def check(self) -> None:
        self.checks += 1
        if self.checks <= self.traits.unhealthy:
            raise ModelRefused("golden outputs differ")
        super().check()


class VersionFolder:
    """A registry for the controller, a source for a worker."""

    def __init__(self, folder: Path, model: str = "") -> None:
        self.folder = folder
        self.model = model
        self.logged: list[tuple[str, str, Mapping[str, float], datetime]] = []

    def put(self, model: str, version: str, traits: Traits | None = None) -> None:
        (self.folder / model).mkdir(parents=True, exist_ok=True)
        (self.folder / model / f"{version}.json").write_bytes(msgspec.json.encode(traits or Traits()))

    def promote(self, model: str, version: str) -> None:
        self.put_alias(model, "champion", version)

    def put_alias(self, model: str, alias: str, version: str) -> None:
        waiting = self.folder / model / f".{alias}"
        waiting.write_text(version)
        waiting.replace(self.folder / model / alias)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def versions(self, name: str) -> list[str]:
        return sorted((path.stem for path in (self.folder / name).glob("*.json")), key=int)

    def aliases(self, name: str) -> dict[str, str]:
        places = {alias: self.folder / name / alias for alias in ("champion", "previous")}
        return {alias: place.read_text() for alias, place in places.items() if place.exists()}

    def settle_aliases(
        self, name: str, champion: str, previous: str | None, *, instead_of: Sequence[str]
    ) -> bool:
        if self.aliases(name).get("champion") not in (None, champion, *instead_of):
            return False
        if previous is None:
            (self.folder / name / "previous").unlink(missing_ok=True)
        else:
            self.put_alias(name, "previous", previous)
        self.put_alias(name, "champion", champion)
        return True

    def log_metrics(self, name: str, version: str, metrics: Mapping[str, float], at: datetime) -> None:
        self.logged.append((name, version, metrics, at))

    def champion(self) -> str:
        found = self.aliases(self.model).get("champion")
        if found is None:
            raise UnknownName("model alias", "champion", [])
        return found

    def load(self, version: str) -> Version:
        path = self.folder / self.model / f"{version}.json"
        if not path.exists():
            raise UnknownName("model version", version, self.versions(self.model))
        traits = msgspec.json.decode(path.read_bytes(), type=Traits)
        time.sleep(traits.load_s)
        if traits.refused:
            raise ModelRefused("the digest differs")
        return Version(self.model, version, traits)


def version_of(score: float, amount: int, count: int = 1) -> str:
    """The version that gave this score to a payment."""
    base = amount / 100 + count / 10
    return str(round((score - base) / STEP))
