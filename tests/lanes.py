"""Which tests run one after another in one worker, and which worker takes what next.

A fixture of a session or package is made once in each worker that needs it. So the tests of a package that
share one of its own are one lane; so are those of each folder that use the session's stack. Each further file
is a lane.

Two stacks take from each other what two cores have, while tests without one use the half of them that the
stack's leave idle: the worker that has the stack keeps to the lanes that need it, the others to the rest.
Whoever has no more of its own helps with what is left. Lanes whose tests may take long, by their marks, come
first; short ones fill the end.
"""

from collections import Counter

import pytest
from xdist.scheduler import LoadGroupScheduling
from xdist.workermanage import WorkerController

STACK = "stack of"
SHARED = ("stack", "services_env")
on_the_stack = pytest.mark.services(STACK)  # for a test that asks for the stack only while it runs


def lane(item: pytest.Item) -> str:
    file = item.nodeid.partition("::")[0]
    if asks_for_the_stack(item):
        return f"{STACK} {'/'.join(file.split('/')[:2])}"
    return next(iter(_packages(item)), file)


def asks_for_the_stack(item: pytest.Item) -> bool:
    names: list[str] = getattr(item, "fixturenames", [])
    marked = any(STACK in mark.args for mark in item.iter_markers("services"))
    return marked or any(name in names for name in SHARED)


def _packages(item: pytest.Item) -> list[str]:
    """The folders of the fixtures that it shares with its package, the outermost first."""
    info = getattr(item, "_fixtureinfo", None)
    found = {} if info is None else info.name2fixturedefs
    return sorted({defined[-1].baseid for defined in found.values() if defined[-1].scope == "package"})


def arrange(items: list[pytest.Item]) -> None:
    lanes = {item: lane(item) for item in items}
    longest: Counter[str] = Counter()
    for item, name in lanes.items():
        item.add_marker(pytest.mark.xdist_group(name))
        mark = item.get_closest_marker("timeout")
        longest[name] += 0 if mark is None else mark.args[0]
    sizes = Counter(lanes.values())
    items.sort(key=lambda item: (-longest[lanes[item]], -sizes[lanes[item]], lanes[item]))


class Lanes(LoadGroupScheduling):
    """As the lanes are arranged, not by their number of tests; with two kinds of workers."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _assign_work_unit(self, node: WorkerController) -> None:
        has_stack = self._has_stack(node) or not any(map(self._has_stack, self.nodes))
        own = (name for name in self.workqueue if name.startswith(STACK) is has_stack)
        self.workqueue.move_to_end(next(own, next(iter(self.workqueue))), last=False)
        super()._assign_work_unit(node)

    def _has_stack(self, node: WorkerController) -> bool:
        return any(name.startswith(STACK) for name in self.assigned_work[node])
