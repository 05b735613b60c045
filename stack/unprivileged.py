"""PostgreSQL refuses to run as root. Where we are root, it runs as an unprivileged user instead.

`python unprivileged.py UID GID COMMAND...` becomes COMMAND as that user. The command and its data may lie
below folders that only root may enter (a checkout in root's home is common in containers), so on Linux
the two capabilities that ignore file permissions are kept across the change, and no other. This file is
run as a script and imports the standard library only.
"""

import ctypes
import os
import struct
import sys

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 47, 2
CAPABILITY_VERSION_3 = 0x20080522


def become(uid: int, gid: int) -> None:
    """Change user and group for good. Raises `OSError`."""
    linux = sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True) if linux else None
    if libc is not None:
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if libc is not None:
        kept = 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH
        for capabilities in (kept, 1 << CAP_DAC_OVERRIDE):  # a container may hold only the first
            header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
            data = struct.pack("=6I", capabilities, capabilities, capabilities, 0, 0, 0)
            if libc.capset(header, data) == 0:
                break
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])
