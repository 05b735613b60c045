"""What a long-running process asks of the C library's allocator."""

import ctypes

BIG = 1 << 20
_MMAP_THRESHOLD = -3  # of `mallopt`, in malloc.h


def give_back() -> bool:
    """Blocks of 1 MiB and more are given back to the system as soon as they are free. Whether it could be
    asked for: glibc can.

    glibc does that for blocks from 128 KiB at first, but takes each larger one that is freed as a sign to
    keep such blocks on the heap from then on (to 32 MiB). A table that is made anew each few minutes, such as
    that of a set that takes and forgets, then lies at another place each time, and what is between stays: a
    gateway grew by 8 MB twice in ten minutes.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, BIG))
    except (AttributeError, OSError):
        return False
