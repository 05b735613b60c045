"""Structs whose first use is in several threads at once."""

import subprocess
import sys

import msgspec
import pytest

from core.structs import ready

PROGRAM = """
import sys, threading
from typing import Annotated
import msgspec
from core.structs import ready

sys.setswitchinterval(1e-6)
COUNT, THREADS = 100, 6
FIELDS = [(f"field{n}", Annotated[int, msgspec.Meta(ge=0)] if n % 2 else "str | None") for n in range(40)]
VALUES = {f"field{n}": n if n % 2 else "text" for n in range(40)}
for _ in range(COUNT):
    below = msgspec.defstruct("Below", FIELDS)
    kind = ready(msgspec.defstruct("Kind", [*FIELDS, ("below", below)]))
    begin = threading.Barrier(THREADS)

    def first() -> None:
        begin.wait()
        assert msgspec.convert(VALUES | {"below": VALUES}, kind).below.field1 == 1

    threads = [threading.Thread(target=first) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("good")
"""


def test_threads_that_are_first_at_once_all_decode() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "good\n", "")


def test_a_type_that_cannot_be_decoded_is_refused_at_once() -> None:
    class Bad(msgspec.Struct):
        value: dict[str, str] | dict[int, str]

    with pytest.raises(TypeError, match="dict"):
        ready(Bad)
