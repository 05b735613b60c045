"""Which tests may run side by side: those of the session's stack in one worker, all others in another.

Tests of one lane run one after another in one worker, in the order of their files. Those that use the
session's stack are one lane, for a second stack would take from the first what two cores have; each further
file is a lane.
"""

import pytest

STACK = "stack"
SHARED = ("stack", "services_env")
on_the_stack = pytest.mark.xdist_group(STACK)  # for a test that asks for the stack only while it runs


def lane(item: pytest.Item) -> str:
    if (own := item.get_closest_marker("xdist_group")) is not None:
        return str(own.args[0])
    fixtures: list[str] = getattr(item, "fixturenames", [])
    if any(name in fixtures for name in SHARED):
        return STACK
    return item.nodeid.partition("::")[0]


def arrange(items: list[pytest.Item]) -> None:
    """The longest lane begins first; the others fill the time beside it."""
    lanes = {item: lane(item) for item in items}
    for item, name in lanes.items():
        item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: lanes[item] != STACK)
