"""An entry of the trail, and the chain that it stands in.

An entry's hash is the SHA-256 of its other fields as canonical JSON: sorted names, no spaces, UTF-8, the time
as RFC 3339 with milliseconds. The hash of the entry before is one of those fields, so that no entry can be
changed, left out or moved without every later hash being another one.

A chain belongs to one process: it begins with the entry `trail.begun`, sequence 0, which says what kind of
process on which host it is, and ends with `trail.ended` where the process was not killed. A process that
starts again begins a new chain under a new name, so that two that believe to be the same never share one.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime

import msgspec

from core.clock import from_millis, to_millis
from core.ids import canonical_json, new_id
from pipelines.audit.event import AuditEvent
from schemas.catalog.security import AuditEntry
from schemas.headers import rfc3339

BEGUN, ENDED, HEADS = "trail.begun", "trail.ended", "trail.heads"
DROPPED = "dropped"
MOST_DETAILS, TEXT_LIMIT = 128, 512
DETAIL_BYTES = 32_768
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def digest_of(entry: AuditEntry) -> str:
    """What the entry's `hash` has to be."""
    fields = {name: getattr(entry, name) for name in AuditEntry.spec().names if name != "hash"}
    fields["at"] = rfc3339(entry.at)
    return hashlib.sha256(canonical_json(fields)).hexdigest()


def id_of(writer: str, sequence: int) -> str:
    return f"{writer}/{sequence}"


class Chain:
    """The entries of one writer, made one after the other. `kind`: which process it is, as `gateway`."""

    def __init__(self, kind: str, *, host: str) -> None:
        self.writer = f"{kind}-{new_id()}"
        self._about = {"kind": kind, "host": host}
        self._following = 0
        self._hash = ""

    @property
    def begun(self) -> bool:
        return self._following > 0

    def begin(self, at: datetime) -> AuditEntry:
        """The first entry; call it once, before any other."""
        return self.add(AuditEvent("", self.writer, BEGUN, "allowed", at, detail=self._about))

    def end(self, at: datetime) -> AuditEntry:
        """The last entry; what follows it was not written by this chain's owner."""
        return self.add(AuditEvent("", self.writer, ENDED, "allowed", at))

    def add(self, event: AuditEvent, *, dropped: int = 0) -> AuditEntry:
        """The event as the next entry. `dropped`: how many before it did not fit, which it tells."""
        detail = _detail(event.detail)
        if dropped:
            detail[DROPPED] = str(dropped)
        unsealed = AuditEntry(
            tenant=_text(event.tenant),
            id=id_of(self.writer, self._following),
            writer=self.writer,
            sequence=self._following,
            previous=self._hash,
            hash="",
            at=from_millis(to_millis(event.at)),
            actor=_text(event.actor),
            action=_text(event.action),
            target=_text(event.target),
            outcome=event.outcome,
            reason=_text(event.reason),
            request_id=_text(event.request_id),
            detail=detail,
        )
        entry = msgspec.structs.replace(unsealed, hash=digest_of(unsealed))
        self._following, self._hash = self._following + 1, entry.hash
        return entry


def _text(text: str) -> str:
    """Without what PostgreSQL cannot hold or a terminal would obey, and at most 512 characters."""
    return _UNSTORABLE.sub("?", text[:TEXT_LIMIT])


def _detail(given: Mapping[str, str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    size = 0
    for name, text in list(given.items())[:MOST_DETAILS]:
        name, text = _text(name), _text(text)
        size += len(name.encode()) + len(text.encode())
        if size > DETAIL_BYTES:
            break
        kept[name] = text
    return kept
