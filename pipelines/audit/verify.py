"""Proving the trail: what was removed, changed, moved, forged or cut off, entry by entry.

A copy of the trail (PostgreSQL's, Kafka's) is read once, in its own order, by a `CopyCheck`, which checks
each chain by itself: no gap, every hash right, each naming the one before. `compare` then holds the copies
against each other and against the heads that were witnessed. 32 bytes are kept per entry.

What is not found: the same entries taken off the end of a chain in both copies, above the last head that was
witnessed, or with the witness's own entries since; and a copy that was wholly rewritten where there is no
other one. A head that was noted elsewhere (`millstream audit heads`) finds both.
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from pipelines.audit.entry import BEGUN, ENDED, digest_of, id_of
from pipelines.audit.heads import Head, heads_of
from schemas.catalog.security import AuditEntry

Kind = Literal["removed", "changed", "reordered", "forged", "cut off", "unguarded"]
_HASH_BYTES = 32


@dataclass(frozen=True, order=True)
class Finding:
    """What is wrong with the entries `sequence` to `last` (inclusive) of a writer, in which copy."""

    writer: str
    sequence: int
    last: int
    kind: Kind
    source: str
    reason: str

    @property
    def text(self) -> str:
        many = "" if self.last == self.sequence else f" to {self.last}"
        where = f"{self.writer}/{self.sequence}{many}" if self.writer else self.reason
        return f"{self.kind} in {self.source}: {where}" + (f" ({self.reason})" if self.writer else "")


@dataclass
class ChainCheck:
    """One chain of one copy, from the sequence `first` to the one before `following`."""

    writer: str
    source: str
    first: int | None = None
    following: int = 0
    findings: list[Finding] = field(default_factory=list)
    runs: list[tuple[int, bytearray]] = field(default_factory=list)  # first of a run -> its hashes
    moved: dict[int, str] = field(default_factory=dict)  # those that came after later ones
    missing: dict[int, int] = field(default_factory=dict)  # first of a gap -> the last of it
    previous: str = ""
    sound: bool = True
    ended: bool = False

    def hash_at(self, sequence: int) -> str | None:
        """What the copy has there; None where it has nothing."""
        number = bisect_right(self.runs, sequence, key=lambda run: run[0]) - 1
        if number >= 0:
            first, hashes = self.runs[number]
            start = (sequence - first) * _HASH_BYTES
            if start < len(hashes):
                return bytes(hashes[start : start + _HASH_BYTES]).hex()
        return self.moved.get(sequence)

    def held(self) -> Iterator[tuple[int, str]]:
        """Sequence and hash of every entry."""
        for first, hashes in self.runs:
            for number in range(len(hashes) // _HASH_BYTES):
                yield first + number, bytes(hashes[number * _HASH_BYTES : (number + 1) * _HASH_BYTES]).hex()
        yield from self.moved.items()

    def take(self, entry: AuditEntry) -> None:
        """The next entry, in the order of the copy."""
        if self.first is None:
            self.first = self.following = entry.sequence
            if entry.sequence == 0 and (entry.previous or entry.action != BEGUN):
                self._found("forged", entry.sequence, "a chain does not begin so")
        if entry.sequence < self.following:
            self._again(entry)
            return
        gap = entry.sequence > self.following
        if gap:
            self.missing[self.following] = entry.sequence - 1
        good = self._genuine(entry)
        if good and self.sound and not gap and self.runs and entry.previous != self.previous:
            self._found("forged", entry.sequence, "it does not name the entry before")
        if self.ended:
            self._found("forged", entry.sequence, "the chain had ended")
        if gap or not self.runs:
            self.runs.append((entry.sequence, bytearray()))
        self._keep(entry)
        self.sound, self.ended = good, entry.action == ENDED

    def gaps(self) -> Iterator[tuple[int, int]]:
        return iter(self.missing.items())

    def _again(self, entry: AuditEntry) -> None:
        """An entry below the end: a repeat of what is there, one that was moved, or a forged one."""
        if self.hash_at(entry.sequence) == entry.hash and digest_of(entry) == entry.hash:
            return
        gap = next((a for a, b in self.missing.items() if a <= entry.sequence <= b), None)
        if gap is None:
            below = self.first is not None and entry.sequence < self.first
            self._found(
                "reordered" if below else "forged",
                entry.sequence,
                "it comes after later ones" if below else "another one has its place",
            )
            return
        last = self.missing.pop(gap)
        if gap < entry.sequence:
            self.missing[gap] = entry.sequence - 1
        if entry.sequence < last:
            self.missing[entry.sequence + 1] = last
        if self._genuine(entry):
            self._found("reordered", entry.sequence, "it comes after later ones")
        self.moved[entry.sequence] = _bytes(entry.hash).hex()

    def _genuine(self, entry: AuditEntry) -> bool:
        """Whether it is what its hash says."""
        if digest_of(entry) == entry.hash and entry.id == id_of(entry.writer, entry.sequence):
            return True
        elsewhere = entry.id.removeprefix(f"{entry.writer}/")
        if elsewhere.isascii() and elsewhere.isdigit() and len(elsewhere) < 19:
            moved = msgspec.structs.replace(entry, sequence=int(elsewhere))
            if moved.sequence != entry.sequence and digest_of(moved) == entry.hash:
                self._found("reordered", entry.sequence, f"it is entry {moved.sequence}")
                return False
        self._found("changed", entry.sequence, "its content is not what its hash says")
        return False

    def _keep(self, entry: AuditEntry) -> None:
        self.runs[-1][1].extend(_bytes(entry.hash))
        self.previous = entry.hash
        self.following = entry.sequence + 1

    def _found(self, kind: Kind, sequence: int, reason: str) -> None:
        self.findings.append(Finding(self.writer, sequence, sequence, kind, self.source, reason))


class CopyCheck:
    """One copy of the trail. `source`: its name."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.chains: dict[str, ChainCheck] = {}
        self.heads: dict[str, Head] = {}
        self.entries = 0

    def take(self, entry: AuditEntry, *, witness: bool = True) -> None:
        """The next entry: of each writer's in order, the writers in any. Without `witness` the heads that it
        tells count for nothing."""
        self.entries += 1
        chain = self.chains.get(entry.writer)
        if chain is None:
            chain = self.chains[entry.writer] = ChainCheck(entry.writer, self.source)
        chain.take(entry)
        for head in heads_of(entry) if witness else ():
            known = self.heads.get(head.writer)
            if known is None or known.sequence < head.sequence:  # whose hash stands for all that were before
                self.heads[head.writer] = head


@dataclass(frozen=True)
class Allowances:
    """What a copy may lack. expired: of each writer the sequence below which Kafka's retention may have taken
    the entries. waiting: of each writer the sequence from which on entries have not been copied yet."""

    expired: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)


def compare(
    copies: Iterable[CopyCheck], *, given: Iterable[Head] = (), allowed: Allowances | None = None
) -> list[Finding]:
    """Everything that is wrong, by writer and sequence."""
    allowed = allowed or Allowances()
    copies = list(copies)
    heads = [*given, *(head for copy in copies for head in copy.heads.values())]
    found: list[Finding] = []
    writers = {writer for copy in copies for writer in copy.chains} | {head.writer for head in heads}
    by_writer: dict[str, list[Head]] = {}
    for head in heads:
        by_writer.setdefault(head.writer, []).append(head)
    for writer in sorted(writers):
        chains = [copy.chains.get(writer) or ChainCheck(writer, copy.source) for copy in copies]
        for chain in chains:
            floor = allowed.expired.get(writer, 0) if chain.source == "kafka" else 0
            found += chain.findings
            found += _lacking(chain, chains, by_writer.get(writer, []), floor, allowed.waiting.get(writer))
        found += _differing(chains)
    return sorted(set(found))


def _lacking(
    chain: ChainCheck, chains: list[ChainCheck], heads: list[Head], floor: int, waiting: int | None
) -> Iterator[Finding]:
    """What is not in a chain and should be, and heads that it does not have."""
    longest = max((other.following for other in chains), default=0)
    witnessed = max((head.sequence + 1 for head in heads), default=0)
    end = max(longest, witnessed)
    if chain.source == "postgres" and waiting is not None:
        end = min(end, max(waiting, chain.following))
    first = end if chain.first is None else chain.first
    if first > floor:
        what: Literal["removed", "cut off"] = "removed"
        yield Finding(
            chain.writer, floor, first - 1, what, chain.source, "the chain does not begin with them"
        )
    for start, last in chain.gaps():
        if last >= floor:
            yield Finding(
                chain.writer, max(start, floor), last, "removed", chain.source, "a gap in the chain"
            )
    if chain.first is not None and chain.following < end:
        by = "the other copy has them" if longest >= end else "a head says so"
        yield Finding(chain.writer, chain.following, end - 1, "cut off", chain.source, by)
    for head in heads:
        held = chain.hash_at(head.sequence)
        if held is not None and held != head.hash:
            reason = f"the head in {head.by} has another hash"
            yield Finding(chain.writer, head.sequence, head.sequence, "forged", chain.source, reason)


def _differing(chains: list[ChainCheck]) -> Iterator[Finding]:
    """Entries that two copies have with different hashes: where each is good by itself one is forged."""
    for one, other in itertools.pairwise(chains):
        if one.first is None or other.first is None:
            continue
        told = {finding.sequence for finding in (*one.findings, *other.findings)}
        for sequence, here in one.held():
            there = other.hash_at(sequence)
            if there is not None and here != there and sequence not in told:
                both = f"{one.source} and {other.source}"
                yield Finding(one.writer, sequence, sequence, "forged", both, "the copies differ")


def _bytes(hash: str) -> bytes:
    """32 bytes; of what is no hash, 32 that no hash has."""
    try:
        found = bytes.fromhex(hash)
    except ValueError:
        found = b""
    return found if len(found) == _HASH_BYTES and any(found) else b"\xff" * _HASH_BYTES
