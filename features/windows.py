"""Shapes of windows: what the features of a view are computed over.

A windowed view has one row per (tenant, entity, window) that has at least one event of the entity, whatever
the filters of its features leave. Windows are half open, [start, end), in milliseconds, and aligned to the
epoch in UTC, as Flink's window table functions have them: starts are multiples of the size (hopping: of
`every`), also before 1970. In each shape an entity has at most one window per end, and every end is a
multiple of `every`: so the end names the window, and "an hour earlier" is one window.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Rolling:
    """For every event: all events of the entity up to its own time, itself and equal times included."""


ROLLING = Rolling()


@dataclass(frozen=True)
class Tumbling:
    """Windows of `size`, one after the other."""

    size: timedelta

    @property
    def every(self) -> timedelta:
        return self.size


@dataclass(frozen=True)
class Hopping:
    """Windows of `size` that begin each `every`, a part of the size; an event is in size / every of them."""

    size: timedelta
    every: timedelta


@dataclass(frozen=True)
class Cumulating:
    """Windows that all begin with a stretch of `size` and end each `every` in it: early values of the whole.

    An event is in every window of its stretch that ends after it. An end at the border of two stretches is
    that of the earlier one, whole.
    """

    size: timedelta
    every: timedelta


Windowed = Tumbling | Hopping | Cumulating
Window = Rolling | Windowed
