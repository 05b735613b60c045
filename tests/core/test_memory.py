"""Big blocks are the system's again when they are free."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import psutil
from core.memory import BIG, give_back

if sys.argv[1] == "ask":
    assert give_back()
process = psutil.Process()
before, kept = process.memory_info().rss, []
for _ in range(3):  # the first that are freed are a sign for the next
    held = [b"x" * (8 * BIG) for _ in range(4)]
    kept.append(bytearray(BIG - 100_000))  # behind them, if they are on the heap
    del held
print(process.memory_info().rss - before < 16 * BIG)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(("how", "given_back"), [("ask", "True"), ("leave", "False")])
def test_blocks_that_are_free_are_not_kept(how: str, given_back: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert (ended.stdout.strip(), ended.stderr) == (given_back, "")
