"""Fallback chain: an ordered list of ways to answer, each with its own time; the first that answers counts.

The usual order is live, previous version, cached, historical average, static. The answer says which level
gave it, and why the ones before did not.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from core.errors import (
    DeadlineExceeded,
    DeclarationError,
    InvalidInput,
    MillstreamError,
    QueueFull,
    RateLimited,
)
from core.telemetry.log import logger
from core.telemetry.metrics import counter

Asked = TypeVar("Asked")
Given = TypeVar("Given")

_LOG = logger("fallback")
_ANSWERED = counter(
    "fallback_answers_total", "Answers by level; all but the first are degraded", ("chain", "level")
)
MAX_REASON = 300


@dataclass(frozen=True)
class Level(Generic[Asked, Given]):
    """One way to answer. `answer` raises MillstreamError where it cannot; `timeout` cancels it."""

    name: str
    answer: Callable[[Asked], Awaitable[Given]]
    timeout: timedelta


@dataclass(frozen=True)
class Passed:
    """A level that gave no answer, and why."""

    level: str
    code: str
    reason: str


@dataclass(frozen=True)
class Fallen(Generic[Given]):
    """`value` is of `level`; `passed` are the levels before it, in order."""

    value: Given
    level: str
    passed: tuple[Passed, ...]

    @property
    def degraded(self) -> bool:
        return bool(self.passed)

    @property
    def warning(self) -> str | None:
        """One sentence for the response, None where the first level answered."""
        if not self.passed:
            return None
        first = self.passed[0]
        return f"answered by {self.level}, because {first.level} did not: {first.reason}"


class FallbackChain(Generic[Asked, Given]):
    """`levels`, the best first. Raises DeclarationError for none, for equal names, for no time."""

    def __init__(self, name: str, levels: Sequence[Level[Asked, Given]]) -> None:
        names = [level.name for level in levels]
        if not levels or len(set(names)) != len(names):
            raise DeclarationError(
                f"a chain of {names}", where=f"fallback chain {name}", mend="name each level once"
            )
        for level in levels:
            if level.timeout <= timedelta(0):
                raise DeclarationError(
                    f"level {level.name!r} has {level.timeout}",
                    where=f"fallback chain {name}",
                    mend="give it a positive time",
                )
        self._name = name
        self._levels = tuple(levels)

    async def answer(self, asked: Asked) -> Fallen[Given]:
        """The answer of the first level that has one.

        An InvalidInput is raised at once: no level can answer a wrong question. So are QueueFull and
        RateLimited: overload is refused, not passed on. Where none answers, the error of the first level is
        raised, for the others only stood in for it.
        """
        passed: list[Passed] = []
        first: MillstreamError | None = None
        for level in self._levels:
            try:
                async with asyncio.timeout(level.timeout.total_seconds()):
                    value = await level.answer(asked)
            except (InvalidInput, QueueFull, RateLimited):
                raise
            except TimeoutError as error:
                why: MillstreamError = DeadlineExceeded(
                    f"no answer within {level.timeout.total_seconds() * 1000:.0f} ms",
                    where=f"fallback chain {self._name}, level {level.name}",
                    mend="try again",
                )
                why.__cause__ = error
            except MillstreamError as error:
                why = error
            else:
                return self._fallen(value, level.name, tuple(passed))
            first = first or why
            passed.append(Passed(level.name, why.code, why.what[:MAX_REASON]))
        if first is None:
            raise DeclarationError("a chain without levels", where=f"fallback chain {self._name}")
        _LOG.error("no level answered", chain=self._name, levels=[item.level for item in passed])
        raise first

    def _fallen(self, value: Given, level: str, passed: tuple[Passed, ...]) -> Fallen[Given]:
        fallen = Fallen(value, level, passed)
        _ANSWERED.labels(self._name, level).inc()
        if fallen.degraded:
            _LOG.warning("degraded", chain=self._name, level=level, warning=fallen.warning)
        return fallen
