"""Which tests are one lane is read from their fixtures; which worker takes it, from what it has begun."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.lanes import STACK, Lanes

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
import pytest
from tests.lanes import arrange, lane

def pytest_configure(config):
    for name in ("services", "xdist_group", "timeout"):
        config.addinivalue_line("markers", name)

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    arrange(items)

def pytest_collection_finish(session):
    for item in session.items:
        print("lane", item.name, "|", lane(item))

@pytest.fixture(scope="session")
def stack(): ...
"""
TESTS = {
    "tests/first/test_plain.py": "def test_plain(): ...\ndef test_plain_too(): ...",
    "tests/first/test_stack.py": "def test_with_stack(stack): ...",
    "tests/first/test_asks.py": (
        "import pytest\nfrom tests.lanes import on_the_stack\n"
        "@pytest.mark.parametrize('kind', ['memory', pytest.param('real', marks=on_the_stack)])\n"
        "def test_asks(kind): ..."
    ),
    "tests/second/conftest.py": "import pytest\n@pytest.fixture(scope='package')\ndef site(): ...",
    "tests/second/test_a.py": "def test_a(site): ...\ndef test_alone(): ...",
    "tests/second/test_b.py": "import pytest\n@pytest.mark.timeout(900)\ndef test_b(site): ...",
    "tests/third/conftest.py": "import pytest\n@pytest.fixture(scope='package')\ndef site(stack): ...",
    "tests/third/test_c.py": "import pytest\n@pytest.mark.timeout(600)\ndef test_c(site): ...",
}


def test_what_shares_a_stack_or_a_fixture_of_its_package_is_one_lane(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name, text in TESTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q"]
    done = subprocess.run(
        [*command, "--import-mode=importlib"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line.removeprefix("lane ") for line in done.stdout.splitlines() if line.startswith("lane ")]
    assert told == [
        "test_a | tests/second",
        "test_b | tests/second",
        f"test_c | {STACK} tests/third",
        f"test_asks[real] | {STACK} tests/first",
        f"test_with_stack | {STACK} tests/first",
        "test_plain | tests/first/test_plain.py",
        "test_plain_too | tests/first/test_plain.py",
        "test_asks[memory] | tests/first/test_asks.py",
        "test_alone | tests/second/test_a.py",
    ]


class Worker:
    """A worker as the scheduler sees it."""

    shutting_down = False

    def __init__(self) -> None:
        self.gateway = SimpleNamespace(id=str(id(self)))
        self.given: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def test_one_worker_has_the_stack_until_the_others_have_nothing_else() -> None:
    def option(name: str) -> Any:
        return ["popen", "popen"] if name == "tx" else None

    lanes = ["file a", f"{STACK} x", "file b", f"{STACK} y", f"{STACK} z"]
    tests = [f"test_{n}.py::test_{n}@{name}" for name in lanes for n in range(4)]
    config: Any = SimpleNamespace(option=SimpleNamespace(loadscopereorder=True), getvalue=option)
    scheduler, (first, second) = Lanes(config), (Worker(), Worker())
    for worker in (first, second):
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, tests)
    scheduler.schedule()

    def begun(worker: Worker) -> list[str]:
        return [*dict.fromkeys(tests[index].rpartition("@")[2] for index in worker.given)]

    def end(worker: Worker) -> None:
        for index in [index for index in worker.given if index not in ended]:
            ended.add(index)
            scheduler.mark_test_complete(worker, index)

    ended: set[int] = set()
    assert (begun(first), begun(second)) == ([f"{STACK} x"], ["file a"])
    end(second)
    assert begun(second) == ["file a", "file b"]
    end(first)
    assert begun(first) == [f"{STACK} x", f"{STACK} y"]
    end(second)
    assert begun(second) == ["file a", "file b", f"{STACK} z"]
