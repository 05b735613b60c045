"""Decoding a chunk, and halving one until the bad records stand alone."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Unavailable
from jobs.writer.chunk import Chunk, decode
from jobs.writer.errors import BadRecord
from jobs.writer.sink import isolate
from schemas.catalog.decisions import Verdict
from schemas.codec import RecordCodec
from schemas.topic import Topic
from tests.jobs.writer.samples import FakeMessage, verdict

TOPIC = Topic("fraud.transactions.labels.v1", Verdict)


class OneSchema:
    """A registry with one schema, number 7."""

    def __init__(self) -> None:
        self.text = ""

    def id_of(self, subject: str, text: str) -> int:
        self.text = text
        return 7

    def schema(self, schema_id: int) -> str:
        if schema_id != 7:
            raise Unavailable("away")
        return self.text


def codec() -> RecordCodec[Verdict]:
    return RecordCodec(Verdict, OneSchema(), TOPIC.subject)


def far(millis: int) -> bytes:
    """A verdict whose event time is `millis`, written past the checks of the record."""
    made = codec()
    batch = pa.RecordBatch.from_pylist(
        [
            {
                "tenant": "a", "id": "x", "entity": "e", "occurred_at": None, "pipeline": "fraud",
                "verdict": "fraud", "reviewer": "r", "decided_at": datetime(2026, 1, 1, tzinfo=UTC),
            }
        ],
        schema=made.columns,
    )  # fmt: skip
    index = batch.schema.get_field_index("occurred_at")
    columns = list(batch.columns)
    columns[index] = pa.array([millis], pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
    return made.encode_batch(pa.RecordBatch.from_arrays(columns, schema=made.columns))[0]


def test_rows_and_messages_stay_together_and_the_bad_are_told_apart() -> None:
    made = codec()
    good = [made.encode(verdict(str(number))) for number in range(4)]
    values: list[bytes | None] = [good[0], b"not avro", good[1], None, good[2][:-3], good[3], far(1 << 61)]
    chunk = decode(TOPIC, made, [FakeMessage(number, value) for number, value in enumerate(values)])
    assert chunk.batch.column("id").to_pylist() == ["0", "1", "3"]
    assert [message.offset() for message in chunk.messages] == [0, 2, 5]
    codes = {one.message.offset(): one.code for one in chunk.rejected}
    assert codes == {1: "not_avro", 3: "not_avro", 4: "truncated", 6: "out_of_range"}


def test_a_registry_that_is_away_makes_no_message_bad() -> None:
    made = codec()
    made.encode(verdict("1"))
    with pytest.raises(Unavailable):
        decode(TOPIC, made, [FakeMessage(0, b"\x00\x00\x00\x00\x09rest")])


def numbered(count: int) -> Chunk:
    batch = pa.RecordBatch.from_pydict({"n": list(range(count))})
    return Chunk(TOPIC, batch, tuple(FakeMessage(number) for number in range(count)))


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_exactly_the_bad_are_refused_and_the_rest_written_in_order(count: int, bad: set[int]) -> None:
    written: list[int] = []
    refused: list[int] = []

    def write(chunk: Chunk) -> None:
        rows: list[Any] = chunk.batch.column("n").to_pylist()
        if bad & set(rows):
            raise BadRecord("no")
        assert [message.offset() for message in chunk.messages] == rows
        written.extend(rows)

    isolate(numbered(count), write, lambda part, _: refused.append(part.messages[0].offset()))
    assert written == [number for number in range(count) if number not in bad]
    assert refused == [number for number in range(count) if number in bad]


def test_a_tick_is_neither_a_row_nor_rejected_and_another_message_without_value_is() -> None:
    made = codec()
    tick = FakeMessage(0, None, with_headers=[("ce_type", b"millstream.tick")])
    chunk = decode(TOPIC, made, [tick, FakeMessage(1, None)])
    assert len(chunk) == 0
    assert [one.message.offset() for one in chunk.rejected] == [1]
