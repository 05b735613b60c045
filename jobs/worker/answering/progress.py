"""Progress: how far each partition is done, when records end in another order than they came."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Place:
    """One record that was begun. Knows its partition's line, also after that was given up."""

    offset: int
    line: "_Line"
    ended: bool = False


@dataclass(slots=True)
class _Line:
    open: deque[Place] = field(default_factory=deque)
    next: int | None = None


class Progress:
    """Offsets up to the first record that has not ended. For one thread."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}

    def begin(self, partition: int, offset: int) -> Place:
        """A record was taken up; offsets of a partition come in ascending order."""
        line = self._lines.setdefault(partition, _Line())
        place = Place(offset, line)
        line.open.append(place)
        return place

    def end(self, place: Place) -> None:
        """It is done with; ending it again, or after its partition was given up, changes nothing."""
        place.ended = True
        line = place.line
        while line.open and line.open[0].ended:
            line.next = line.open.popleft().offset + 1

    def take(self) -> dict[int, int]:
        """The offset to commit of each partition that moved since the last call."""
        moved = {partition: line.next for partition, line in self._lines.items() if line.next is not None}
        for partition in moved:
            self._lines[partition].next = None
        return moved

    def open(self, partition: int) -> int:
        """Records from the first that has not ended on."""
        line = self._lines.get(partition)
        return 0 if line is None else len(line.open)

    def forget(self, partition: int) -> None:
        """The partition is another's now."""
        self._lines.pop(partition, None)
