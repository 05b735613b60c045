"""The sink that copies the trail from Kafka to PostgreSQL."""

from collections.abc import Callable

from jobs.audit.store import PostgresAuditStore
from jobs.audit.witness import Witness
from jobs.writer.chunk import Chunk
from jobs.writer.sink import Direct
from schemas.catalog.security import SECURITY_EVENTS, AuditEntry

GATHER_S = 0.05


class AuditSink(Direct):
    """Stores every entry once, the first of a (writer, sequence), and tells the witness of it."""

    name = "trail"
    topics = (SECURITY_EVENTS,)
    wait_s = GATHER_S
    dead_letters = True

    def __init__(self, store: PostgresAuditStore, witness: Witness, stopped: Callable[[], None]) -> None:
        self._store = store
        self._witness = witness
        self._stopped = stopped

    def open(self) -> None:
        self._store.open()
        self._witness.begin(self._store)

    def write(self, chunk: Chunk) -> None:
        entries = [_entry(row) for row in chunk.batch.to_pylist()]
        self._store.store(entries)
        self._witness.saw(entries)

    def tick(self) -> None:
        self._witness.tick()

    def close(self) -> None:
        self._witness.tick(last=True)
        self._stopped()
        self._store.close()


def _entry(row: dict[str, object]) -> AuditEntry:
    return AuditEntry(**(row | {"detail": dict(row["detail"])}))  # type: ignore[call-overload]
