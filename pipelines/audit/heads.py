"""Heads: how long a chain was at some time, and the hash of its last entry then."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from core.errors import InvalidInput
from pipelines.audit.entry import HEADS
from schemas.catalog.security import AuditEntry

MOST_HEADS = 64
"""In one entry, so that it stays below the bounds of a detail."""
_GIVEN = re.compile(r"([A-Za-z0-9._-]{1,128}):([0-9]{1,18}):([0-9a-f]{64})", re.ASCII)
_TOLD = re.compile(r"([0-9]{1,18}) ([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Head:
    """The entry that a chain had as its last one. `by`: who says so."""

    writer: str
    sequence: int
    hash: str
    by: str


def head_text(sequence: int, hash: str) -> str:
    return f"{sequence} {hash}"


def heads_of(entry: AuditEntry) -> Iterator[Head]:
    """The heads that an entry witnesses."""
    if entry.action != HEADS:
        return
    for writer, text in entry.detail.items():
        found = _TOLD.fullmatch(text)
        if found is not None:
            yield Head(writer, int(found[1]), found[2], entry.id)


def parse_head(text: str) -> Head:
    """`WRITER:SEQUENCE:HASH`, as it was noted elsewhere; raises InvalidInput."""
    found = _GIVEN.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"no head of a chain: {text[:80]!r}",
            mend="write WRITER:SEQUENCE:HASH, as `millstream audit heads` shows them",
        )
    return Head(found[1], int(found[2]), found[3], "given")
