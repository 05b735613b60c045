"""`GET /api/v1/batch/status`: queue, batches and success of the processes that answer by LLM."""

import msgspec

from gateway.exchange import Request, Response, json_response
from operators.answer_statistics import BatchStatus, QueueState, Window, merged
from pipelines.batch_status import StatusBoard


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """All processes as one; figures at the top are those of the last five minutes."""

    queue: QueueState
    average_batch_size: float | None
    queue_efficiency: float | None
    success_rate: float | None
    tokens_per_s: float | None
    last_minute: Window
    last_5_minutes: Window
    processes: dict[str, BatchStatus]


class BatchStatusEndpoint:
    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    async def get(self, request: Request) -> Response:
        """Raises Unavailable while Redis is away. Without any process the queue has no capacity."""
        told = await self._board.read()
        long = merged([one.last_5_minutes for one in told.values()])
        totals = Totals(
            queue=QueueState(
                sum(one.queue.length for one in told.values()),
                sum(one.queue.capacity for one in told.values()),
            ),
            average_batch_size=long.average_batch_size,
            queue_efficiency=long.queue_efficiency,
            success_rate=long.success_rate,
            tokens_per_s=long.tokens_per_s,
            last_minute=merged([one.last_minute for one in told.values()]),
            last_5_minutes=long,
            processes=told,
        )
        return json_response(200, totals)
