"""Little trainings for tests: rows of the generator, few and shallow trees."""

from pathlib import Path

import pyarrow as pa
from msgspec.structs import replace

from core.clock import SystemClock
from jobs.sources.generated import SOURCE, generate
from jobs.training.beginning import Asked, begin
from jobs.training.ports import Surroundings
from jobs.training.run_folder import RunFolder, RunState
from jobs.training.runner import carry_out
from models.store import ModelStore
from pipelines.training.configuration import Configuration, Evaluation, Range, Search, Source, Split, Trees
from pipelines.training.reading import shipped

ROWS = 40_000
EVENTS = 2_000
TREES = Trees(trees=25, depth=4, learning_rate=0.3)
QUICK = replace(
    shipped("fraud").quick(),
    inputs=40,
    source=Source(kind="generated", rows=ROWS),
    split=Split(test_rows=2 * EVENTS, gap_days=0.5),
    trees=TREES,
)
SPACE = {
    "trees": Range(5, 15),
    "depth": Range(2, 4),
    "learning_rate": Range(0.1, 0.5, log=True),
    "row_share": Range(0.6, 1.0),
}
SEARCHED = replace(
    QUICK,
    search=Search(trials=7, folds=2, rows=3_000, parallel=2, startup=3, space=SPACE),
    evaluation=Evaluation(origins=2, bootstrap=50, without_views=False),
)
"""Seven trials: three whole rounds and a part of one."""


def rows(count: int = ROWS, seed: int = 1) -> pa.Table:
    return generate(count, seed=seed)


def train(
    configuration: Configuration,
    root: Path,
    *,
    table: pa.Table | None = None,
    id: str = "run",
    promote: bool = False,
    around: Surroundings | None = None,
) -> RunState:
    """A run from its beginning to its end, in a store beside it."""
    folder = RunFolder(root, id)
    begin(configuration, folder, Asked(promote=promote), SystemClock())
    given = None if table is None else (table, SOURCE)
    return carry_out(folder, around or surroundings(root), given=given)


def surroundings(root: Path, **more: object) -> Surroundings:
    return Surroundings(store=ModelStore(root / "models"), processes=1, **more)  # type: ignore[arg-type]
