"""Server-sent events, as far as LLM servers use them: `data:` fields, one event per blank line.

https://html.spec.whatwg.org/multipage/server-sent-events.html, lines ending with LF or CRLF.
"""

LONGEST_LINE = 1 << 20


class TooLongLine(Exception):
    """A line longer than any token: whatever sends it sends no tokens."""


class EventStream:
    """Bytes in pieces of any size to the data of events. Holds at most one line and one event."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        self._rest = b""
        self._data: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes. Raises TooLongLine."""
        lines = (self._rest + chunk if self._rest else chunk).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > self._longest:
            raise TooLongLine
        events: list[bytes] = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data, self._held = [], 0
            elif line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._held += len(value)
                if self._held > self._longest:
                    raise TooLongLine
                self._data.append(value)
        return events
