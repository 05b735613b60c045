"""Asking a process whether it is well: one small round trip each, bounded in time, no client libraries.

The supervisor asks often and must stay small, so the protocols are spoken by hand: Kafka's Metadata
request (protocol guide, version 1), Redis' PING (RESP), PostgreSQL's StartupMessage (protocol 3.0).
"""

import http.client
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from stack.unit import Probe

HEARTBEAT_LIMIT_MS = 15_000
MOST_BYTES = 1 << 20


class Answer(NamedTuple):
    ok: bool
    reason: str = ""


def ask(probe: Probe, *, port: int | None = None, timeout_s: float = 2.0) -> Answer:
    """One attempt; never raises. `port` fills `{port}` in the target."""
    check = CHECKS.get(probe.kind)
    if check is None:
        return Answer(False, f"unknown probe kind {probe.kind!r}")
    target = probe.target.replace("{port}", str(port))
    try:
        return check(target, timeout_s)
    except TimeoutError:
        return Answer(False, f"no answer from {target} in {timeout_s:g} s")
    except (OSError, http.client.HTTPException, ValueError, KeyError, struct.error) as error:
        return Answer(False, f"{target}: {error or type(error).__name__}")


def http_status(url: str, timeout_s: float, *, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=timeout_s)
    )
    try:
        query = f"?{parts.query}" if parts.query else ""
        connection.request("GET", (parts.path or "/") + query, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read(MOST_BYTES)
    finally:
        connection.close()


def _own_https(url: str, timeout_s: float) -> Answer:
    """A process of ours on this machine: its certificate is for those who come from elsewhere."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return _http(url, timeout_s, context)


def _http(url: str, timeout_s: float, context: ssl.SSLContext | None = None) -> Answer:
    status, body = http_status(url, timeout_s, context=context)
    if 200 <= status < 300:
        return Answer(True)
    return Answer(False, f"{url} answered {status}: {body[:200].decode(errors='replace').strip()}")


def _connect(target: str, timeout_s: float) -> socket.socket:
    host, _, port = target.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        piece = connection.recv(count - len(received))
        if not piece:
            raise ConnectionError("closed in mid-answer")
        received += piece
    return received


def _tcp(target: str, timeout_s: float) -> Answer:
    _connect(target, timeout_s).close()
    return Answer(True)


def _kafka(target: str, timeout_s: float) -> Answer:
    """Metadata for no topics: answered with the live brokers once the broker takes requests."""
    client = b"millstream-probe"
    request = struct.pack(">hhih", 3, 1, 7, len(client)) + client + struct.pack(">i", 0)
    with _connect(target, timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _exactly(connection, 4))
        if not 8 <= size <= MOST_BYTES:
            return Answer(False, f"{target} does not speak Kafka")
        correlation, brokers = struct.unpack_from(">ii", _exactly(connection, size))
    if correlation != 7:
        return Answer(False, f"{target} does not speak Kafka")
    return Answer(True) if brokers > 0 else Answer(False, "no broker is registered yet")


def _redis(target: str, timeout_s: float) -> Answer:
    with _connect(target, timeout_s) as connection:
        connection.sendall(b"*1\r\n$4\r\nPING\r\n")
        line = connection.recv(256).split(b"\r\n")[0].decode(errors="replace")
    return Answer(line == "+PONG", "" if line == "+PONG" else f"answered {line!r}")


def _postgres(target: str, timeout_s: float) -> Answer:
    """A session as `millstream` on `millstream`: 'R' (authentication) is good, 'E' says why not."""
    fields = b"user\0millstream\0database\0millstream\0\0"
    message = struct.pack(">ii", 8 + len(fields), 196_608) + fields
    with _connect(target, timeout_s) as connection:
        connection.sendall(message)
        kind, size = struct.unpack(">ci", _exactly(connection, 5))
        body = _exactly(connection, min(max(size - 4, 0), 4096))
        if kind == b"R":
            connection.sendall(struct.pack(">ci", b"X", 4))
            return Answer(True)
    text = next((part[1:] for part in body.split(b"\0") if part[:1] == b"M"), body)
    return Answer(False, f"answered {text.decode(errors='replace')!r}")


def _taskmanager(rest: str, timeout_s: float) -> Answer:
    """Registered, last heartbeat at the JobManager younger than 15 s, and still there.

    The JobManager lists a killed TaskManager until heartbeats fail; its port, a new one at each start, is
    closed at once.
    """
    status, body = http_status(f"{rest}/taskmanagers", timeout_s)
    if status != 200:
        return Answer(False, f"the JobManager answered {status}")
    listed = json.loads(body).get("taskmanagers", [])
    if not listed:
        return Answer(False, "not registered at the JobManager")
    newest = max(listed, key=lambda row: int(row["timeSinceLastHeartbeat"]))
    age_ms = time.time() * 1000 - int(newest["timeSinceLastHeartbeat"])
    if age_ms > HEARTBEAT_LIMIT_MS:
        return Answer(False, f"last heartbeat {age_ms / 1000:.0f} s ago")
    address = str(newest["path"]).partition("@")[2].partition("/")[0]
    return _tcp(address, timeout_s)


def _taskmanager_heartbeat(rest: str, timeout_s: float) -> Answer:
    """As `taskmanager`; but a JobManager that is away is not held against the TaskManager."""
    try:
        status, _ = http_status(f"{rest}/overview", timeout_s)
    except OSError:
        status = 0
    if status != 200:
        return Answer(True, "unknown: the JobManager does not answer")
    return _taskmanager(rest, timeout_s)


CHECKS: dict[str, Callable[[str, float], Answer]] = {
    "http": _http,
    "own-https": _own_https,
    "tcp": _tcp,
    "kafka": _kafka,
    "redis": _redis,
    "postgres": _postgres,
    "taskmanager": _taskmanager,
    "taskmanager-heartbeat": _taskmanager_heartbeat,
}
