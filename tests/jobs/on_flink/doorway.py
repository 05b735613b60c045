"""A way to a service of the tests' stack that can be shut, for others to go on meanwhile."""

import socket
import threading
from contextlib import suppress
from typing import Self


class Doorway:
    """Hands connections on `port` over to a service on loopback. Shut, it cuts those there are and refuses
    others, as a service does that has ended."""

    def __init__(self, service_port: int) -> None:
        self._service = ("127.0.0.1", service_port)
        self._open: list[socket.socket] = []
        self._listening: socket.socket | None = None
        self.port = 0
        self.open()

    def open(self) -> None:
        listening = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = listening.getsockname()[1]
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def shut(self) -> None:
        if self._listening is not None:
            _end(self._listening)
            self._listening = None
        while self._open:
            _end(self._open.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
                service = socket.create_connection(self._service, timeout=10)
            except OSError:
                return
            service.settimeout(None)
            self._open += [client, service]
            for source, target in ((client, service), (service, client)):
                threading.Thread(target=_carry, args=(source, target), daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)
    _end(source)
    _end(target)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
