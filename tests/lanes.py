"""Which tests may run side by side: two workers, each with a local stack of its own once a test wants one.

Tests of one lane run one after another in one worker, in the order of their files. Those of the whole
(`integration/`, which deploys a pipeline for all of them) are one lane, all others that use the session's
stack another, and each further file is a lane.
"""

from pathlib import Path

import pytest

WHOLE, PARTS = "stack of the whole", "stack of the parts"
SHARED = ("stack", "services_env")
on_the_stack = pytest.mark.xdist_group(PARTS)  # for a test that asks for the stack only while it runs


def lane(item: pytest.Item) -> str:
    if (own := item.get_closest_marker("xdist_group")) is not None:
        return str(own.args[0])
    fixtures: list[str] = getattr(item, "fixturenames", [])
    if any(name in fixtures for name in SHARED):
        return WHOLE if "integration" in Path(item.path).parts else PARTS
    return item.nodeid.partition("::")[0]


def arrange(items: list[pytest.Item]) -> None:
    """The two longest lanes begin first; the others follow in whichever worker ends its own."""
    lanes = {item: lane(item) for item in items}
    for item, name in lanes.items():
        item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: (WHOLE, PARTS, lanes[item]).index(lanes[item]))
