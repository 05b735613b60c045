"""`Prefer`, by the examples of RFC 7240 and what clients get wrong."""

import pytest

from core.errors import InvalidInput
from core.settings import Asking
from gateway.asking.preference import preference_of

SETTINGS = Asking(wait_s=5, longest_wait_s=60)


@pytest.mark.parametrize(
    ("given", "wait_s", "returns", "applied"),
    [
        (None, 5, False, None),
        ("", 5, False, None),
        ("wait=3", 3, False, "wait=3"),
        ("wait=600", 60, False, "wait=60"),
        ("respond-async", 0, True, "respond-async"),
        ("respond-async, wait=10", 10, True, "respond-async, wait=10"),
        ("wait=10,respond-async", 10, True, "respond-async, wait=10"),
        ("Respond-Async, WAIT=2", 2, True, "respond-async, wait=2"),
        ('wait="7"', 7, False, "wait=7"),
        ("wait=1, wait=9", 1, False, "wait=1"),
        ("return=minimal; foo, wait=4", 4, False, "wait=4"),
        ("priority=5", 5, False, None),
    ],
)
def test_what_is_preferred(given: str | None, wait_s: float, returns: bool, applied: str | None) -> None:
    preference = preference_of(given, SETTINGS)
    assert (preference.wait_s, preference.returns, preference.applied) == (wait_s, returns, applied)


@pytest.mark.parametrize(
    "given", ["wait", "wait=", "wait=-1", "wait=1.5", "wait=1e3", "wait=٣", "wait=9999999"]
)
def test_a_wait_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(InvalidInput):
        preference_of(given, SETTINGS)
