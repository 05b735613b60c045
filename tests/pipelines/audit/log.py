"""A topic in memory, for what is not about Kafka."""

import threading

from core.errors import Unavailable
from schemas.catalog.security import AuditEntry


class Log:
    """A topic in memory behind the writer's two doors: what was sent, and what was acknowledged. While it is
    `away` nothing is acknowledged, though every other message arrives."""

    def __init__(self) -> None:
        self.arrived: list[AuditEntry] = []
        self.away = False
        self.asked = threading.Event()
        self._sent: list[AuditEntry] = []

    def warm(self) -> None:
        return

    def open(self, topic: str) -> None:
        return

    def encode(self, record: AuditEntry) -> bytes:
        self._sent.append(record)
        return b""

    def send(self, topic: str, *, key: str, value: bytes, headers: object) -> None:
        assert key == self._sent[-1].writer

    def settle(self) -> None:
        sent, self._sent = self._sent, []
        self.arrived += sent[::2] if self.away else sent
        self.asked.set()
        if self.away:
            raise Unavailable("no broker answers")

    def discard(self) -> None:
        self._sent = []
