"""The stage that judges the training data before anything is learned from it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from core.errors import Rejected
from jobs.training.expectations import Expected, expected_of
from jobs.training.suite import validate as check
from jobs.training.workspace import Workspace

REPORT, TEXT = "validation.json", "validation.txt"
_TOLD = 5


def validate(space: Workspace) -> dict[str, Any]:
    """Leaves the report. Raises Rejected when an expectation is not met; the run then ends there."""
    return checked(space, expected_of(space.configuration, space.plan.view.source.spec(), space.views))


def checked(space: Workspace, expected: Sequence[Expected]) -> dict[str, Any]:
    """The same with these expectations."""
    space.progress("check the data", None)
    found = check(space.rows, expected)
    space.folder.write(REPORT, msgspec.json.format(msgspec.json.encode(found), indent=1))
    report = space.folder.write(TEXT, found.text().encode())
    if found.failed:
        told = "\n  ".join(one.line() for one in found.failed[:_TOLD])
        raise Rejected(
            f"{len(found.failed)} of {len(found.findings)} expectations are not met\n  {told}",
            fields={f"/{one.arguments.get('column', '')}": one.line() for one in found.failed},
            where=str(report),
            mend="correct the data at its source, or the expectations, and begin a new run",
            code="training_data_refused",
        )
    return {"expectations": len(found.findings), "failed": 0}
