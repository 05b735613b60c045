"""What the stages of a run share: its folder and state, the outside, its files while they are used."""

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from core.clock import Clock
from features.view import FeatureView
from jobs.sources.progress import Progress
from jobs.training.ports import Surroundings
from jobs.training.run_folder import RunFolder, RunState, finite
from models.encode import Matrix
from models.manifest import DataSource
from models.signature import Signature
from models.signature import parse as parse_signature
from pipelines.plan import ScoringPlan
from pipelines.training.configuration import Configuration
from pipelines.training.reading import known_views, plan_of, serving_plan
from schemas.topic import Topic

ROWS, MATRIX, LABELS, SIGNATURE = "rows.parquet", "matrix.npy", "labels.npy", "signature.json"
Labels = npt.NDArray[np.int8]
Given = tuple[pa.Table, DataSource]


class Workspace:
    """One process's hold on a run. `given`: the rows, where the caller has them already."""

    def __init__(
        self, folder: RunFolder, around: Surroundings, clock: Clock, *, given: Given | None = None
    ) -> None:
        self.folder, self.around, self.clock, self.given = folder, around, clock, given
        self.state: RunState = folder.load()
        self._held: pa.Table | None = None

    @property
    def configuration(self) -> Configuration:
        return self.state.configuration

    @property
    def progress(self) -> Progress:
        return self.around.progress

    @property
    def data(self) -> Path:
        return self.folder.data

    @cached_property
    def plan(self) -> ScoringPlan:
        """The pipeline that scores with the model."""
        return serving_plan(self.configuration)

    @cached_property
    def views(self) -> tuple[FeatureView, ...]:
        """The views that the model looks at, the pipeline's own by default."""
        known = known_views()
        own = plan_of(self.configuration).view
        return tuple(known[name] for name in self.configuration.views) or (own,)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the views' features."""
        return tuple(name for view in self.views for name in view.feature_names)

    @property
    def time(self) -> str:
        """The column of the event time."""
        return self.views[0].time

    @property
    def events(self) -> Topic:
        return self.plan.source

    def keep_rows(self, rows: pa.Table) -> None:
        """Put the rows on disk, and hold them for the next stages of this process."""
        partial = self.data / f"{ROWS}.partial"
        pq.write_table(rows, partial, compression="lz4", write_statistics=False)
        partial.replace(self.data / ROWS)
        self._held = rows

    @property
    def rows(self) -> pa.Table:
        """Events, features and label, in time order."""
        if self._held is None:
            self._held = pq.read_table(self.data / ROWS)
        return self._held

    def keep_array(self, name: str, values: npt.NDArray[Any]) -> None:
        """An array on disk, complete or not at all."""
        partial = self.data / f"{name}.partial"
        with partial.open("wb") as file:
            np.save(file, values)
        partial.replace(self.data / name)

    @cached_property
    def matrix(self) -> Matrix:
        """The inputs of all rows, float32 (rows, inputs), read from disk as they are used."""
        found: Matrix = np.load(self.data / MATRIX, mmap_mode="r")
        return found

    @cached_property
    def labels(self) -> Labels:
        """0 or 1 for all rows."""
        found: Labels = np.load(self.data / LABELS)
        return found

    @cached_property
    def signature(self) -> Signature:
        return parse_signature((self.data / SIGNATURE).read_bytes(), where=f"run {self.state.id}")

    def record(self, **changes: Any) -> None:
        """Change the state and put it on disk."""
        self.state = msgspec.structs.replace(self.state, **changes, changed_at=self.now())
        self.folder.save(self.state)

    def measured(self, **metrics: float) -> None:
        """Add metrics to the run."""
        self.record(metrics=self.state.metrics | finite(metrics))

    def now(self) -> datetime:
        return self.clock.now()


Stage = Callable[[Workspace], dict[str, Any]]
"""Does its work, leaves files in the run's folder, returns what is worth knowing. It may be called again
after it was killed at any place, and then gives the same."""
