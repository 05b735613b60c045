"""The sink of forecasts: results to PostgreSQL, and what is stored to those who are pushed it."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from core.clock import Clock
from jobs.writer.chunk import Chunk
from jobs.writer.forecast_store import PostgresForecastStore
from jobs.writer.sink import Direct
from jobs.writer.sinks.status import REMEMBERED, keyed_partition, records
from pipelines.outbox import UNKNOWN_PARTITION, Outbox
from pipelines.plan import ForecastPlan
from schemas.catalog.forecasts import Forecast
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of
from schemas.topic import Topic


class ForecastSink(Direct):
    """Done when PostgreSQL has committed *and* Kafka has acknowledged what is told, in that order.

    After a crash in between, the results are read again and the stored forecasts told again. What this
    process has told already it does not tell twice (the last 100,000).
    """

    name = "forecasts"
    wait_s = 0.0
    dead_letters = True

    def __init__(
        self,
        plan: ForecastPlan,
        store: PostgresForecastStore,
        outbox: Outbox,
        codecs: Mapping[str, RecordCodec[Any]],
        clock: Clock,
    ) -> None:
        self._status = plan.status
        self._store = store
        self._outbox = outbox
        self._codec = codecs[plan.status.name]
        self._clock = clock
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.topics: Sequence[Topic] = (plan.results,)

    def open(self) -> None:
        self._store.open()
        self._outbox.open(self._status.name)

    def write(self, chunk: Chunk) -> None:
        """Raises Unavailable while PostgreSQL or Kafka is away, BadRecord for what cannot be stored."""
        rows = chunk.batch.to_pylist()
        partitions = {
            (row["tenant"], row["id"]): keyed_partition(row, message)
            for row, message in zip(reversed(rows), reversed(chunk.messages), strict=True)
        }
        stored = self._store.store(records(rows, Forecast), self._clock.now())
        untold = [one for one in stored if (one.tenant, one.id) not in self._told]
        for one in untold:
            self._tell(one, partitions[one.tenant, one.id])
        self._outbox.settle()
        for one in untold:
            self._told[one.tenant, one.id] = None
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def close(self) -> None:
        self._store.close()
        self._outbox.discard()

    def _tell(self, forecast: Forecast, partition: tuple[str, int]) -> None:
        key = key_of(forecast.tenant, forecast.entity)
        self._outbox.send(
            self._status.name,
            key=key,
            value=self._codec.encode(forecast),
            headers=event_headers(
                id=forecast.id,
                source=forecast.pipeline,
                type=Forecast.spec().full_name,
                time=forecast.window_end,
                tenant=forecast.tenant,
                received_at=forecast.made_at,
                traceparent=None,
            ),
            partition=partition[1] if partition[0] == key else UNKNOWN_PARTITION,
        )
