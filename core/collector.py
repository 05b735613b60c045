"""Python's cyclic garbage collector, tuned for a process that serves for hours and works in batches."""

import atexit
import gc

YOUNG = 50_000
"""Allocations between two collections of young objects; Python's own 700 run several times a batch."""


def calm() -> None:
    """Call when the process is set up: what is here now stays, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)
    atexit.register(gc.unfreeze)  # at the end everything goes, or extensions report it as leaked
