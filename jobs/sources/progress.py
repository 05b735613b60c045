"""Progress of a long step, told to whoever shows it."""

from collections.abc import Callable

#: Called with what is being done and the fraction done, 0 to 1; None where that is not known.
Progress = Callable[[str, float | None], None]


def silent(what: str, done: float | None) -> None:
    """Progress that nobody wants to see."""
