"""What was pushed lately: entries of one partition in offset order, and which outcomes were seen before."""

from bisect import bisect_right
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from schemas.record import Record


@dataclass(slots=True)
class Entry:
    """One message: whose it is, where it lies, and its bytes.

    `key` is what makes two messages the same outcome, `group` and `entity` what a subscription selects by
    (the pipeline, an alert's source, a training's model; and what the record is about), `rank` how far the
    status has come. `record` is there while the entry is being handed out for the first time; a ring holds
    the bytes alone.
    """

    tenant: str
    id: str
    rank: int
    group: str
    entity: str
    key: Hashable = field(repr=False)
    partition: int
    offset: int
    at_ms: int
    value: bytes = field(repr=False)
    record: Record | None = field(default=None, repr=False)


class Ring:
    """The newest `limit` entries of one partition, in offset order.

    Complete from `floor`: every entry with offset >= floor is here. `reached` is the last offset read, also
    when its message was no entry (a repeat, or undecodable); floor - 1 when nothing was read.
    """

    def __init__(self, limit: int, *, floor: int) -> None:
        self._limit = limit
        self._entries: list[Entry] = []
        self._start = 0
        self.floor = floor
        self.reached = floor - 1

    def __len__(self) -> int:
        return len(self._entries) - self._start

    def append(self, entry: Entry) -> None:
        """Add the entry of the next offset; the oldest one leaves where the ring is full."""
        self._entries.append(entry)
        self.reached = max(self.reached, entry.offset)
        if len(self) > self._limit:
            self.floor = self._entries[self._start].offset + 1
            self._start += 1
            if self._start > self._limit // 16:  # those that left are held until then
                del self._entries[: self._start]
                self._start = 0

    def holds(self, offset: int) -> bool:
        """Whether everything after `offset` is here."""
        return offset + 1 >= self.floor

    def after(self, offset: int) -> list[Entry]:
        """The entries with an offset greater than `offset`, oldest first."""
        start = bisect_right(self._entries, offset, lo=self._start, key=lambda entry: entry.offset)
        return self._entries[start:]


class FirstWins:
    """Tells the first message of an outcome from its repeats, over the newest `limit` outcomes.

    A set and a queue: an `OrderedDict` that forgets its oldest grows to five places for each of its entries,
    29 MB for 200,000, the last step of it after hours where little is pushed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[int] = set()
        self._order: deque[int] = deque()

    def first(self, key: Hashable) -> bool:
        """Whether this is the first time; remembers it."""
        digest = hash(key)
        if digest in self._seen:
            return False
        self._seen.add(digest)
        self._order.append(digest)
        if len(self._order) > self._limit:
            self._seen.remove(self._order.popleft())
        return True
