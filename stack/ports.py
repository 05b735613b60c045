"""Who holds a port: found before a service is started, and told by name."""

import errno
import socket
from collections.abc import Iterable

import psutil

from core.errors import StackError
from core.settings import LOOPBACK
from stack.service import Port


def taken(number: int) -> bool:
    """Whether something on loopback (or on every address) listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, number))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return True
            raise
    return False


def owner(number: int) -> tuple[int | None, str]:
    """(pid, description) of the process that listens; pid None where it cannot be told."""
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == number
            ):
                if connection.pid is None:
                    break
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline())[:80] or process.name()
                return connection.pid, f"process {connection.pid}, {process.name()} ({command})"
    except psutil.Error:
        pass
    return None, "a process of another user"


def refuse_clashes(ports: Iterable[Port], ours: frozenset[int] = frozenset()) -> None:
    """Raise `StackError` naming every port that is taken and by whom; `ours` are pids of this stack."""
    clashes = []
    wanted: dict[int, Port] = {}
    for port in ports:
        twin = wanted.setdefault(port.number, port)
        if twin is not port:
            clashes.append((port, f"{twin.purpose} as well"))
        elif taken(port.number):
            pid, who = owner(port.number)
            if pid is None or pid not in ours:
                clashes.append((port, who))
    if not clashes:
        return
    raise StackError(
        "; ".join(f"port {port.number} ({port.purpose}) is taken by {who}" for port, who in clashes),
        where=f"{LOOPBACK}",
        mend="stop that process, or choose another port: "
        + ", ".join(f"{port.variable}=<port>" for port, _ in clashes),
        code="port_taken",
    )
