"""The models of a serving process, each with its follower, its queue and its doors."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import InternalError, UnknownName
from jobs.worker.serving import ModelSource, Serving
from models.load import LoadedModel
from models.rows import RowReader
from operators.batching import Batching, Bounds


@dataclass(frozen=True)
class Door:
    """One version and how records come to it."""

    model: LoadedModel
    rows: RowReader


class Served:
    """One model: the champion of its name, followed as a worker follows it."""

    def __init__(self, name: str, source: ModelSource, bounds: Bounds) -> None:
        self.name = name
        self.batching = Batching(bounds)
        self.serving = Serving(source, pipeline=name)
        self._door: Door | None = None

    @property
    def door(self) -> Door:
        """That of the version in service now. Raises ModelError while there is none."""
        model = self.serving.current.champion.scorer
        if self._door is None or self._door.model is not model:
            if not isinstance(model, LoadedModel):
                raise InternalError(f"model {self.name} came from elsewhere than a store")
            self._door = Door(model, RowReader(model.signature))
        return self._door


class Models:
    """By name."""

    def __init__(self, served: Mapping[str, Served]) -> None:
        self._served = dict(served)

    def find(self, name: str) -> Served:
        """Raises UnknownName."""
        found = self._served.get(name)
        if found is None:
            raise UnknownName("model", name[:64], self._served)
        return found
