"""A process that is set up does not look at its own foundations again."""

import gc

from core import collector


def test_what_is_there_is_frozen_and_young_objects_wait_longer() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        collector.calm()
        assert gc.get_freeze_count() > frozen
        assert gc.get_threshold()[0] == collector.YOUNG
        assert gc.isenabled(), "cycles made from now on are still found"
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
