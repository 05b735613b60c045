"""The files in `run/`: what is written is what is read, and a reader never sees half of it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import StackError
from stack.process import Identity
from stack.state import KEPT_ALERTS, Note, RunFolder, StackAlert, StackState, UnitStatus
from stack.unit import Kind, Probe, Unit

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    created = RunFolder(tmp_path)
    created.create()
    return created


def unit(name: str, kind: Kind = Kind.JOB, *, resume: bool = True) -> Unit:
    probe = Probe("http", "http://127.0.0.1:{port}/health")
    return Unit(
        name=name,
        service=name,
        kind=kind,
        argv=("python", "-c", "pass"),
        env={"A": "ä\n"},
        cwd="/",
        log="/tmp/log",
        health=probe,
        ready=probe,
        resume=resume,
    )


def alert(number: int) -> StackAlert:
    return StackAlert(
        severity="high",
        kind="restarts",
        source="supervisor",
        subject=f"unit-{number}",
        text="text",
        deduplication_key="key",
        at=AT,
    )


def test_the_state_survives_the_way_through_the_file(folder: RunFolder) -> None:
    row = UnitStatus(
        name="kafka",
        service="kafka",
        kind=Kind.SERVICE,
        state="ready",
        pid=12,
        started=1.5,
        since=AT,
        restarts=2,
        reasons=(Note(AT, "exited: signal SIGKILL"),),
        rss_mb=370.5,
        stop_signal=2,
    )
    state = StackState(supervisor=Identity(7, 3.25), at=AT, units=(row,))
    folder.write_state(state)
    assert folder.read_state() == state
    assert row.identity == Identity(12, 1.5)
    assert [path.name for path in folder.folder.iterdir()] == ["state.json"]  # no half-written file stays


def test_no_state_is_none_and_a_damaged_one_is_told(folder: RunFolder) -> None:
    assert folder.read_state() is None
    folder.state_file.write_text('{"supervisor": {')
    with pytest.raises(StackError, match="cannot be read") as caught:
        folder.read_state()
    assert str(folder.state_file) in str(caught.value)


def test_only_jobs_that_want_it_are_resumed(folder: RunFolder) -> None:
    stays = unit("worker")
    folder.write_jobs([stays, unit("once", resume=False), unit("kafka", Kind.SERVICE)])
    assert folder.read_jobs() == (stays,)


def test_alerts_are_kept_in_order_and_bounded(folder: RunFolder) -> None:
    folder.alerts_file.write_text("")
    for number in range(3):
        folder.append_alert(alert(number))
    assert [kept.subject for kept in folder.read_alerts()] == ["unit-0", "unit-1", "unit-2"]
    lines = folder.alerts_file.read_bytes()
    folder.alerts_file.write_bytes(lines * KEPT_ALERTS)
    folder.append_alert(alert(3))
    kept = folder.read_alerts()
    assert len(kept) == KEPT_ALERTS
    assert kept[-1].subject == "unit-3"


def test_the_folder_is_private(folder: RunFolder) -> None:
    assert folder.folder.stat().st_mode & 0o077 == 0
