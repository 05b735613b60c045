"""The rows of a training out of recorded tables: labels from verdicts, history from the newest row back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from msgspec.structs import replace

from core.clock import SystemClock
from core.errors import InvalidInput
from jobs.training.beginning import Asked, begin
from jobs.training.extract import _labelled, recent
from jobs.training.run_folder import RunFolder
from jobs.training.workspace import Workspace
from pipelines.training.configuration import Source
from tests.jobs.training.small import QUICK, surroundings

AT = datetime(2026, 3, 1, tzinfo=UTC)


def space(root: Path, unlabelled: str = "drop") -> Workspace:
    folder = RunFolder(root, "run")
    source = Source(kind="recorded", unlabelled=unlabelled)  # type: ignore[arg-type]
    begin(replace(QUICK, source=source), folder, Asked(), SystemClock())
    return Workspace(folder, surroundings(root), SystemClock())


def events(count: int) -> pa.Table:
    return pa.table({"tenant": ["a"] * count, "id": [f"e{n}" for n in range(count)]})


def verdicts(*given: tuple[str, str, str, int]) -> pa.Table:
    """(tenant, id, verdict, minutes after)"""
    return pa.table(
        {
            "tenant": [one[0] for one in given],
            "id": [one[1] for one in given],
            "verdict": [one[2] for one in given],
            "reviewer": ["r"] * len(given),
            "decided_at": [AT + timedelta(minutes=one[3]) for one in given],
        }
    )


def test_the_newest_verdict_of_the_same_tenant_counts(tmp_path: Path) -> None:
    given = verdicts(
        ("a", "e0", "fraud", 1),
        ("a", "e1", "fraud", 1),
        ("a", "e1", "legitimate", 5),
        ("a", "e2", "unsure", 1),
        ("b", "e3", "fraud", 1),
    )
    found = _labelled(events(4), given, space(tmp_path))
    assert dict(zip(found["id"].to_pylist(), found["is_fraud"].to_pylist(), strict=True)) == {
        "e0": 1,
        "e1": 0,
    }


def test_events_without_a_verdict_count_as_negative_where_asked_for(tmp_path: Path) -> None:
    given = verdicts(("a", "e1", "fraud", 1), ("a", "e2", "unsure", 1))
    found = _labelled(events(4), given, space(tmp_path, "negative"))
    assert found["id"].to_pylist() == ["e0", "e1", "e3"]
    assert found["is_fraud"].to_pylist() == [0, 1, 0]


def test_history_counts_back_from_the_newest_row() -> None:
    times = [AT - timedelta(days=days) for days in (800, 731, 730, 10, 0)]
    rows = pa.table({"at": pa.array(times, pa.timestamp("ms", "UTC"))})
    assert recent(rows, "at", 730).num_rows == 2
    with pytest.raises(InvalidInput, match="no rows"):
        recent(rows.slice(0, 0), "at", 730)
