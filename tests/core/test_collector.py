"""A process that is set up does not look at its own foundations again."""

import gc

from core.collector import YOUNG, calm  # as it is: in the tests' processes it does nothing


def test_what_is_there_is_frozen_and_young_objects_wait_longer() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        calm()
        assert gc.get_freeze_count() > frozen
        assert gc.get_threshold()[0] == YOUNG
        assert gc.isenabled(), "cycles made from now on are still found"
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        gc.collect()
        gc.freeze()  # as it was
