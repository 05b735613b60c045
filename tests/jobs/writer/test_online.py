"""The online sink: what Redis says is what the writer hears."""

from collections.abc import Sequence

import pyarrow as pa
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from core.errors import Unavailable
from jobs.writer.chunk import Chunk
from jobs.writer.sinks.online import OnlineSink
from schemas.catalog.decisions import Verdict
from schemas.topic import Topic
from tests.jobs.writer.samples import FakeMessage

TOPIC = Topic("fraud.transactions.enriched.v1", Verdict)


class Rows:
    def __init__(self, errors: Sequence[RedisError] = ()) -> None:
        self.errors = list(errors)
        self.written: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.written.append(batch)


def test_a_batch_is_written_once_redis_answers_whatever_it_said_before() -> None:
    rows = Rows([RedisConnectionError("refused"), ResponseError("OOM command not allowed")])
    sink = OnlineSink(TOPIC, rows)
    chunk = Chunk(TOPIC, pa.RecordBatch.from_pydict({"id": ["1", "2"]}), (FakeMessage(0), FakeMessage(1)))
    for reason in ("refused", "OOM"):
        with pytest.raises(Unavailable, match=reason) as away:
            sink.write(chunk)
        assert away.value.code == "redis_unavailable"
    sink.write(chunk)
    assert rows.written == [chunk.batch]
