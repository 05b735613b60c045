"""Judging in parallel processes, bounded by the processors; they end with the one that started them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from core.errors import ModelFailed
from jobs.training.fold_scores import Task, judge, ready
from jobs.training.trials import Judged

Given = TypeVar("Given")
Made = TypeVar("Made")


class Judges:
    """A number of processes that judge."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def judge(self, tasks: Sequence[Task]) -> list[Judged]:
        """All of them, in order; see `each`."""
        return list(self.each(judge, tasks))

    def each(self, work: Callable[[Given], Made], tasks: Sequence[Given]) -> Iterator[Made]:
        """What a function at the top of a module gives for every task, in order, as it is there. Raises
        ModelFailed when a process ended, e.g. for want of memory."""
        try:
            yield from self._pool.map(work, tasks)
        except BrokenProcessPool as error:
            raise ModelFailed(
                "a process that judged a trial ended",
                where="search",
                mend="give it more memory or fewer processes, and resume the run",
            ) from error


@contextmanager
def judges(count: int) -> Iterator[Judges]:
    """`count` processes, started as they are needed, ended on leaving."""
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=ready)
    try:
        yield Judges(pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
