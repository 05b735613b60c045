"""Events come out the same however the bytes were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.llm.event_stream import EventStream, TooLongLine

lines = st.lists(
    st.one_of(
        st.binary(max_size=12).map(lambda data: b"data: " + data.replace(b"\n", b".").replace(b"\r", b".")),
        st.sampled_from([b"", b"", b": ping", b"event: x", b"id: 1", b"data:tight", b"data", b"data: "]),
    ),
    max_size=20,
)


def naive(stream: bytes) -> list[bytes]:
    """The specification read literally, over the whole stream."""
    events, data = [], []
    for line in stream.replace(b"\r\n", b"\n").split(b"\n")[:-1]:
        if line == b"":
            if data:
                events.append(b"\n".join(data))
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    return events


@given(lines, st.sampled_from([b"\n", b"\r\n"]), st.data())
def test_any_cut_gives_the_same_events(given_lines: list[bytes], end: bytes, data: st.DataObject) -> None:
    stream = b"".join(line + end for line in given_lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    events = EventStream()
    found = []
    for begin, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += events.feed(stream[begin:stop])
    assert found == naive(stream)


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 200, b"data: xxxxxxxxxx\n" * 20])
def test_what_would_not_end_is_refused(chunk: bytes) -> None:
    events = EventStream(longest=100)
    with pytest.raises(TooLongLine):
        [events.feed(chunk) for _ in range(3)]
