"""Bodies of events: where one ends and the next begins, and what is refused before it takes memory."""

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InvalidInput, Malformed, TooLarge
from gateway.bodies import Events, read_events
from gateway.exchange import Request

MOST = 10
CHECK = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
ITEMS = st.sampled_from(
    [None, 0, -1.5, "", "a,]", 'b"[', "\\", [], [1, [2]], {}, {"a": [{"b": "}"}]}, "\u00e9"]
)
JSON, NDJSON = "application/json", "application/x-ndjson"
ENDLESS = b'%s"' + b'\\"' * 500_000


async def read(body: bytes, kind: str = JSON, most: int = MOST) -> Events:
    async def whole(limit: int) -> bytes:
        if len(body) > limit:
            raise TooLarge("body")
        return body

    request = Request("POST", "/", {"content-type": kind}, whole, "r")
    return await read_events(request, max_event_bytes=1024 * 1024, max_events=most)


@CHECK
@given(st.lists(ITEMS, min_size=1, max_size=MOST))
async def test_the_items_of_an_array_are_its_events(items: list[object]) -> None:
    for separators in ((",", ":"), (" ,\n", " : ")):
        found = await read(json.dumps(items, separators=separators).encode())
        assert ([json.loads(raw) for raw in found.raw], found.single) == (items, False)


@CHECK
@given(st.lists(ITEMS, min_size=1, max_size=MOST))
async def test_the_lines_of_a_text_are_its_events(items: list[object]) -> None:
    for end in ("\n", "\r\n", "\n\n"):
        found = await read("".join(json.dumps(item) + end for item in items).encode(), NDJSON)
        assert ([json.loads(raw) for raw in found.raw], found.single) == (items, False)


@pytest.mark.parametrize(
    ("body", "kind", "error", "code"),
    [
        (b"[]", JSON, InvalidInput, "no_events"),
        (b"\n\n", NDJSON, InvalidInput, "no_events"),
        (b"", JSON, Malformed, "malformed_body"),
        (b"[1,", JSON, Malformed, "malformed_body"),
        (b"[1] 2", JSON, Malformed, "malformed_body"),
        (b"[\xff]", JSON, Malformed, "malformed_body"),
        (b"[" * 5_000, JSON, Malformed, "too_deep"),
        pytest.param(ENDLESS % (b"[" * 30), JSON, Malformed, "malformed_body", id="a text without end"),
        pytest.param(ENDLESS % (b"[" * 33), JSON, Malformed, "too_deep", id="a text without end, too deep"),
        (b"[" + b"1," * MOST + b"1]", JSON, TooLarge, "too_many_events"),
        (b"1\n" * (MOST + 1), NDJSON, TooLarge, "too_many_events"),
    ],
)
async def test_what_are_no_events(body: bytes, kind: str, error: type[InvalidInput], code: str) -> None:
    with pytest.raises(error) as caught:
        await read(body, kind)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("body", "kind"), [(b"[" + b"0," * 2_000_000 + b"0]", JSON), (b"\n" * 4_000_000, NDJSON)]
)
async def test_too_many_are_refused_without_making_any(body: bytes, kind: str) -> None:
    await read(b"[0]", most=1_000)  # makes the decoder
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            await read(body, kind, most=1_000)
        assert tracemalloc.get_traced_memory()[1] < len(body) + 1_000_000
    finally:
        tracemalloc.stop()
