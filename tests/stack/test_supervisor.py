"""The supervisor as a daemon, over small processes that serve the probes as ours do. No services needed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from core.errors import StackError, UnknownName
from core.settings import Redis as RedisSettings
from core.settings import Settings
from core.settings import Supervisor as Policy
from stack.control import socket_path
from stack.local import Stack
from stack.state import UnitStatus
from stack.unit import JobSpec

# A job that answers probes; the file named by its first argument makes it unwell while it exists.
JOB = """
import http.server, json, os, pathlib, sys
unwell = pathlib.Path(sys.argv[1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        bad = unwell.exists() and self.path in unwell.read_text()
        self.send_response(503 if bad else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"restarts": os.environ["MILLSTREAM_RESTARTS"]}).encode())
    def log_message(self, *_): pass
print("started", flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["MILLSTREAM_PROBE_PORT"])), Handler).serve_forever()
"""

# the documented numbers, thirty times as fast
QUICK = Policy(
    health_interval_s=0.3,
    health_delay_s=0.5,
    ready_interval_s=0.2,
    ready_delay_s=0.5,
    probe_timeout_s=0.3,
    backoff_first_s=0.1,
    backoff_longest_s=0.4,
    stop_timeout_s=2.0,
)


def eventually(condition: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    running = Stack(Settings(home=tmp_path / "home", supervisor=QUICK))
    running.up(only=set())
    yield running
    running.down()


@pytest.fixture
def unwell(tmp_path: Path) -> Path:
    return tmp_path / "unwell"


def job(unwell: Path, name: str = "job", *, resume: bool = True) -> JobSpec:
    return JobSpec(name=name, argv=(sys.executable, "-c", JOB, str(unwell)), resume=resume)


def ready(stack: Stack, name: str = "job") -> UnitStatus:
    stack.wait_ready([name], timeout=20)
    return stack.unit(name)


def pid_of(stack: Stack, name: str = "job") -> int:
    pid = stack.unit(name).pid
    assert pid is not None
    return pid


def test_a_killed_job_is_started_again_and_status_says_why(stack: Stack, unwell: Path) -> None:
    stack.add_job(job(unwell))
    before = ready(stack)
    os.kill(pid_of(stack), signal.SIGKILL)
    eventually(lambda: stack.unit("job").restarts == 1, "a restart")
    after = ready(stack)
    assert after.pid != before.pid
    assert after.reasons[0].text == "exited: signal SIGKILL"
    with urllib.request.urlopen(f"{after.address}/metrics", timeout=5) as answer:
        assert json.load(answer) == {"restarts": "1"}


def test_a_hung_job_is_killed_and_started_again(stack: Stack, unwell: Path) -> None:
    stack.add_job(job(unwell))
    before = ready(stack)
    os.kill(pid_of(stack), signal.SIGSTOP)
    eventually(lambda: stack.unit("job").restarts == 1, "a restart")
    after = ready(stack)
    assert after.pid != before.pid
    assert any("3 health checks in a row failed" in reason.text for reason in after.reasons)
    assert before.identity is not None
    assert before.identity.process() is None


def test_a_job_that_is_not_ready_is_taken_out_and_comes_back_without_a_restart(
    stack: Stack, unwell: Path
) -> None:
    stack.add_job(job(unwell))
    before = ready(stack)
    unwell.write_text("/ready")
    eventually(lambda: stack.unit("job").state == "out", "taken out")
    unwell.unlink()
    after = ready(stack)
    assert (after.pid, after.restarts) == (before.pid, 0)
    assert "503" in after.reasons[0].text


def test_a_job_that_keeps_dying_raises_one_alert(stack: Stack) -> None:
    stack.add_job(JobSpec(name="doomed", argv=(sys.executable, "-c", "raise SystemExit(3)")))
    eventually(lambda: stack.unit("doomed").restarts >= 6, "six restarts")
    alerts = stack.folder.read_alerts()
    assert [(alert.severity, alert.subject) for alert in alerts] == [("high", "doomed")]
    assert "exited: code 3" in alerts[0].text
    with pytest.raises(StackError, match="doomed is not ready"):
        stack.wait_ready(["doomed"], timeout=5)


def test_a_command_that_does_not_exist_is_reported_and_not_fatal(stack: Stack, unwell: Path) -> None:
    stack.add_job(JobSpec(name="nothing", argv=("/nowhere/nothing",)))
    stack.add_job(job(unwell))
    ready(stack)
    eventually(lambda: stack.unit("nothing").restarts > 0, "a failed start")
    assert "cannot be started" in stack.unit("nothing").reasons[0].text


def test_a_restart_on_request_is_graceful_and_counted(stack: Stack, unwell: Path) -> None:
    stack.add_job(job(unwell))
    before = ready(stack)
    stack.restart("job", "new model")
    eventually(lambda: stack.unit("job").pid not in (before.pid, None), "another process")
    assert ready(stack).reasons[-1].text == "new model"


def test_stop_keeps_it_stopped_until_start(stack: Stack, unwell: Path) -> None:
    stack.add_job(job(unwell))
    ready(stack)
    stack.stop("job")
    assert stack.unit("job").state == "stopped"
    stack.start("job")
    ready(stack)


def test_a_job_waits_for_what_it_comes_after(stack: Stack, unwell: Path, tmp_path: Path) -> None:
    unwell.write_text("/ready")
    stack.add_job(job(unwell, "first"))
    second = JobSpec(
        name="second", argv=(sys.executable, "-c", JOB, str(tmp_path / "never")), after=("first",)
    )
    stack.add_job(second)
    eventually(lambda: stack.unit("first").state == "out", "first runs, unready")
    assert (stack.unit("second").state, stack.unit("second").pid) == ("waiting", None)
    unwell.unlink()
    ready(stack, "second")


def test_jobs_come_back_with_the_next_up_when_they_asked_for_it(stack: Stack, unwell: Path) -> None:
    stack.add_job(job(unwell, "stays"))
    stack.add_job(job(unwell, "once", resume=False))
    stack.wait_ready(["stays", "once"], timeout=20)
    pids = [pid_of(stack, "stays"), pid_of(stack, "once")]
    stack.down()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert stack.status() == []
    stack.up(only=set())
    ready(stack, "stays")
    assert [row.name for row in stack.status()] == ["stays"]
    stack.remove_job("stays")
    stack.down()
    stack.up(only=set())
    assert stack.status() == []


def test_down_works_after_the_supervisor_was_killed(stack: Stack, unwell: Path) -> None:
    stack.add_job(job(unwell))
    identity = ready(stack).identity
    state = stack.folder.read_state()
    assert state is not None
    assert identity is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    eventually(lambda: state.supervisor.process() is None, "the supervisor is gone")
    assert identity.process() is not None
    assert [row.name for row in stack.status()] == ["job"]  # still told
    stack.down()
    assert identity.process() is None


def test_up_after_the_supervisor_was_killed_leaves_no_second_copy(stack: Stack, unwell: Path) -> None:
    stack.add_job(job(unwell))
    orphan = ready(stack).identity
    state = stack.folder.read_state()
    assert state is not None
    assert orphan is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    eventually(lambda: state.supervisor.process() is None, "the supervisor is gone")
    stack.up(only=set())
    assert ready(stack).pid != orphan.pid
    assert orphan.process() is None


def test_there_is_one_supervisor_per_folder(stack: Stack) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "stack.supervisor"],
        env={**os.environ, "MILLSTREAM_HOME": str(stack.settings.root)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode != 0
    assert "a supervisor already runs" in second.stderr


def test_the_control_socket_refuses_what_it_does_not_understand(stack: Stack) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(socket_path(stack.settings.root)))
        connection.sendall(b"not json\n")
        assert "the request was not taken" in json.loads(connection.recv(4096))["error"]
    with pytest.raises(UnknownName, match="unknown unit 'jib'"):
        stack.wait_ready(["jib"])
    assert socket_path(stack.settings.root).stat().st_mode & 0o077 == 0


def test_a_failed_up_stops_what_it_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        stack = Stack(Settings(home=tmp_path / "home", redis=RedisSettings(port=number)))
        with pytest.raises(StackError, match=f"port {number}"):
            stack.up(only={"redis"})
        assert not stack.running()


def test_an_external_service_that_cannot_be_reached_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
    given = RedisSettings(url=f"redis://127.0.0.1:{number}/0")
    stack = Stack(Settings(home=tmp_path / "home", redis=given))
    with pytest.raises(StackError, match="the external redis cannot be reached"):
        stack.up(only={"redis"})
    assert not stack.running()


def test_a_deep_folder_does_not_break_the_control_socket(tmp_path: Path) -> None:
    stack = Stack(Settings(home=tmp_path / ("d" * 120), supervisor=QUICK))
    stack.up(only=set())
    try:
        assert stack.status() == []
        assert stack.running()
    finally:
        stack.down()
    assert not stack.running()
