"""Judging a trial over folds, in a process of its own: what the parent sends is small, the matrix is mapped.

A process bins each fold's rows once and uses them for every trial that it judges. It ends with its parent,
however that ended.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import connection, parent_process
from pathlib import Path

import numpy as np

from jobs.training.boosting import Sample
from jobs.training.splitting import Fold, sampled
from jobs.training.trials import Judged
from jobs.training.workspace import LABELS, MATRIX
from models.encode import Matrix
from models.evaluation import quality
from pipelines.training.configuration import Trees


@dataclass(frozen=True)
class Task:
    """What is to be judged, on which rows. `rows` bounds the training rows of a fold; 0 for all of them."""

    folder: Path
    folds: tuple[Fold, ...]
    rows: int
    metric: str
    settings: Trees
    seed: int
    thresholds: tuple[float, ...]


def ready() -> None:
    """Called once in each process."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def judge(task: Task) -> Judged:
    """The mean of the metric after each fold; cut short after one where it is below its threshold."""
    values: list[float] = []
    means: list[float] = []
    for number, fold in enumerate(task.folds):
        sample, later, labels = _prepared(task.folder, fold, task.rows, task.seed)
        model = sample.fit(task.settings, seed=task.seed)
        values.append(float(getattr(quality(labels, model.score(later)), task.metric)))
        means.append(float(np.mean(values)))
        last = number == len(task.folds) - 1
        if not last and task.thresholds and means[-1] < task.thresholds[number]:
            return Judged(tuple(means), pruned=True)
    return Judged(tuple(means), pruned=False)


def both_classes(labels: np.ndarray, folds: Sequence[Fold]) -> list[Fold]:  # type: ignore[type-arg]
    """The folds that have both classes to learn from and to be judged on."""
    return [
        fold
        for fold in folds
        if all(
            0 < int(np.count_nonzero(part)) < len(part)
            for part in (labels[: fold.train_end], labels[fold.test_start : fold.test_end])
        )
    ]


@lru_cache(maxsize=20)
def _prepared(folder: Path, fold: Fold, rows: int, seed: int) -> tuple[Sample, Matrix, np.ndarray]:  # type: ignore[type-arg]
    matrix, labels = np.load(folder / MATRIX, mmap_mode="r"), np.load(folder / LABELS)
    kept = sampled(fold.train_end, rows or fold.train_end, seed=seed)
    sample = Sample(np.ascontiguousarray(matrix[kept]), labels[kept], threads=1)
    later = np.ascontiguousarray(matrix[fold.test_start : fold.test_end])
    return sample, later, labels[fold.test_start : fold.test_end]
