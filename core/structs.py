"""Structs that more than one thread may decode."""

import threading
from typing import TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)

_one_at_a_time = threading.Lock()


def ready(kind: type[S]) -> type[S]:
    """`kind`, with what msgspec knows of it worked out here; a decorator.

    msgspec (0.22) works out the types of a Struct's fields when it is decoded or converted to for the first
    time, and makes the place for them before they are there: a second thread that comes meanwhile reads a
    null pointer, and the process is gone (SIGSEGV). A class with a `Decoder` at the top of its module is
    ready when the module is; `decode(..., type=...)` and `convert` need this. The classes of its fields are
    ready with it. Raises what a `Decoder` raises, e.g. TypeError for a type that msgspec does not support.
    """
    with _one_at_a_time:
        msgspec.json.Decoder(kind)
    return kind
