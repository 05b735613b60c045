"""Gateways that do to each request what a test has written down for its path, over plain sockets."""

import contextlib
import hashlib
import socket
import threading
from base64 import b64encode
from collections import defaultdict
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

OK, REFUSE, RESET, HANG, BREAK, EVENTS = "ok", "refuse", "reset", "hang", "break", "events"
"""Answer; answer 503; close the connection; say nothing; break off in the answer; send two server-sent
events, the second when `go_on` is set."""
_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Seen(NamedTuple):
    gateway: int
    method: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Script:
    """By path: what is done at the first, second, ... sight by any gateway, then `OK`; and the sights."""

    does: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[str, list[Seen]] = field(default_factory=lambda: defaultdict(list))
    go_on: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, path: str, seen: Seen) -> str:
        with self._lock:
            self.seen[path].append(seen)
            does = self.does.get(path, [])
            return does.pop(0) if does else OK


class ScriptedGateway:
    """One of them, on a port of its own; `ready` is what its `/ready` says."""

    def __init__(self, number: int, port: int, script: Script) -> None:
        self.number, self.port, self.script = number, port, script
        self.ready = True
        self._server: socket.socket | None = None
        self._open: set[socket.socket] = set()

    def start(self) -> None:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", self.port))
        server.listen(128)
        self._server = server
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def kill(self) -> None:
        """As SIGKILL to a process: every connection breaks, none is taken any more."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
        for connection in list(self._open):
            _abort(connection)

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while (line := reader.readline()) and self._answer(connection, reader, line):
                pass
        except (OSError, ValueError):
            pass
        finally:
            self._open.discard(connection)
            reader.close()
            connection.close()

    def _answer(self, connection: socket.socket, reader: BinaryIO, line: bytes) -> bool:
        """Take one request and do to it what is written; whether another may follow."""
        method, path, _ = line.decode().split(" ")
        headers: dict[str, str] = {}
        while (line := reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        if path == "/ready":
            connection.sendall(_whole(200 if self.ready else 503, b"{}"))
            return True
        body = _body(headers, reader)
        does = self.script.next(path, Seen(self.number, method, headers, body))
        if "upgrade" in headers:
            return self._echo(connection, headers)
        if does == RESET:
            _abort(connection)
            return False
        if does == HANG:
            reader.readline()
            return False
        if does == BREAK:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nthe first half")
            self.script.go_on.wait(60)
            _abort(connection)
            return False
        if does == EVENTS:
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                b"9\r\ndata: 1\n\n\r\n"
            )
            self.script.go_on.wait(60)
            connection.sendall(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
            return True
        connection.sendall(
            _whole(503 if does == REFUSE else 202, b'{"by": %d}' % self.number, method == "HEAD")
        )
        return True

    def _echo(self, connection: socket.socket, headers: dict[str, str]) -> bool:
        accept = b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + _WEBSOCKET).digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-accept: " + accept + b"\r\n\r\n"
        )
        while piece := connection.recv(4096):
            connection.sendall(piece)
        return False


def _whole(status: int, body: bytes, head: bool = False) -> bytes:
    told = b"HTTP/1.1 %d Told\r\nserver: scripted\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return told if head else told + body


def _body(headers: dict[str, str], reader: BinaryIO) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return reader.read(int(headers.get("content-length", 0)))
    parts = []
    while size := int(reader.readline(), 16):
        parts.append(reader.read(size))
        reader.readline()
    reader.readline()
    return b"".join(parts)


def _abort(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
