"""Talking to the supervisor: one JSON line there, one back, over a unix socket only the owner can open."""

import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

import msgspec

from core.errors import StackError
from core.structs import ready
from stack.state import UnitStatus
from stack.unit import Unit

LONGEST_PATH = 100  # bytes; the kernel's limit for a unix socket's path is 104 to 108
LONGEST_REQUEST = 4 << 20
TIMEOUT_S = 10.0


@ready
class Request(msgspec.Struct, frozen=True, kw_only=True):
    """`do`: `ping`, `put` (add or replace `units`), `remove`, `stop`, `start`, `restart` (`names`),
    `shutdown` (stop all, highest stage first, then exit)."""

    do: str
    units: tuple[Unit, ...] = ()
    names: tuple[str, ...] = ()
    reason: str = ""


@ready
class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """`error` says what was wrong with the request; the work itself goes on in the background."""

    units: tuple[UnitStatus, ...] = ()
    error: str | None = None


def socket_path(root: Path) -> Path:
    """`<root>/run/control.sock`, or a private folder of the temporary directory where that is too long."""
    path = root / "run" / "control.sock"
    if len(os.fsencode(path)) <= LONGEST_PATH:
        return path
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"millstream-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077 or not stat.S_ISDIR(found.st_mode):
        raise StackError(
            f"{folder} is not private to this user", mend="remove it, or choose a shorter MILLSTREAM_HOME"
        )
    return folder / "control.sock"


def remove_socket(root: Path) -> None:
    """Tidy up after the supervisor."""
    path = socket_path(root)
    path.unlink(missing_ok=True)
    if path.parent != root / "run":
        path.parent.rmdir()


def call(root: Path, request: Request, timeout_s: float = TIMEOUT_S) -> Reply:
    """Send one request. Raises `OSError` when no supervisor listens, `StackError` when it refuses."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(socket_path(root)))
        connection.sendall(msgspec.json.encode(request) + b"\n")
        received = bytearray()
        while not received.endswith(b"\n"):
            piece = connection.recv(1 << 16)
            if not piece:
                raise ConnectionError("the supervisor hung up")
            received += piece
    reply = msgspec.json.decode(received, type=Reply)
    if reply.error:
        raise StackError(reply.error, where="supervisor")
    return reply


def receive(connection: socket.socket) -> Request:
    """The request of one connection; raises `ValueError` when it is malformed or too long."""
    received = bytearray()
    while not received.endswith(b"\n"):
        piece = connection.recv(1 << 16)
        if not piece:
            break
        received += piece
        if len(received) > LONGEST_REQUEST:
            raise ValueError("the request is too long")
    return msgspec.json.decode(received, type=Request)
