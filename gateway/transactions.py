"""`GET /api/v1/transactions/{id}`: the status of one event, right after its 202 and ever after.

PostgreSQL is the truth. Where it has no row yet, the acceptance record (Redis, else this gateway's own
memory) answers `provisional`. A status that this gateway has pushed is never answered with an older one,
and while PostgreSQL is away only what was pushed here is answered, the rest with 503: an acceptance record
alone could be behind what another gateway pushed.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.clock import from_millis
from core.errors import Unavailable
from gateway.acceptance import Acceptance, AcceptanceStore, InMemoryAcceptance
from gateway.exchange import Request, Response, json_response
from gateway.problems import NotFound
from gateway.push.hub import Pushed
from pipelines.tables import RANK_PROVISIONAL

_COLUMNS = (
    "id, pipeline, entity, occurred_at, status, rank, score, decision, model, model_version, result,"
    " verdict, reviewer, note, changed_at"
)
_TIMEOUT_S = 2.0


class TransactionsEndpoint:
    """The handler, of events of `pipelines`: those whose events have a status. `pushed` gives the highest
    status pushed of (tenant, id)."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        pipelines: Iterable[str],
        store: AcceptanceStore,
        recent: InMemoryAcceptance,
        pushed: Callable[[str, str], Pushed | None],
    ) -> None:
        self._pool = pool
        self._pipelines = tuple(pipelines)
        self._store = store
        self._recent = recent
        self._pushed = pushed

    async def get(self, request: Request) -> Response:
        tenant, id = request.principal.tenant, request.parameters["id"]
        away: Unavailable | None = None
        row: dict[str, Any] | None = None
        if "\x00" not in id:
            try:
                row = await self._row(tenant, id)
            except Unavailable as error:
                away = error
        pushed = self._pushed(tenant, id)
        if pushed is not None and (row is None or row["rank"] < pushed.rank):
            row = _of_pushed(pushed)
        if row is None:
            if away is not None:
                raise away
            row = await self._accepted(tenant, id)
        if row is None:
            raise NotFound(f"no transaction {id[:128]!r}")
        row.pop("rank")
        return json_response(200, row)

    async def _row(self, tenant: str, id: str) -> dict[str, Any] | None:
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                self._pool.connection(timeout=1.0) as connection,
                connection.cursor(row_factory=dict_row) as cursor,
            ):
                await cursor.execute(
                    f"SELECT {_COLUMNS} FROM transactions WHERE tenant = %s AND id = %s", (tenant, id)
                )
                row: dict[str, Any] | None = await cursor.fetchone()
                return row
        except psycopg.errors.UndefinedTable:
            return None
        except (psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
            raise Unavailable("PostgreSQL is away", code="database_unavailable") from error

    async def _accepted(self, tenant: str, id: str) -> dict[str, Any] | None:
        found = [self._recent.peek(tenant, name, id) for name in self._pipelines]
        if not any(found):
            found = await asyncio.gather(*(self._store.get(tenant, name, id) for name in self._pipelines))
        accepted = (one for one in found if one is not None and one.accepted)
        return next((_provisional(id, one) for one in accepted), None)


def _provisional(id: str, acceptance: Acceptance) -> dict[str, Any]:
    return _shape() | {
        "id": id,
        "pipeline": acceptance.pipeline,
        "entity": acceptance.entity,
        "occurred_at": from_millis(acceptance.occurred_at_ms),
        "status": "provisional",
        "rank": RANK_PROVISIONAL,
        "changed_at": from_millis(acceptance.received_at_ms),
    }


def _of_pushed(pushed: Pushed) -> dict[str, Any]:
    change = pushed.record()
    result = getattr(change, "result", None)
    shape = _shape()
    for name in shape:
        for part in (result, change):
            if hasattr(part, name):
                shape[name] = getattr(part, name)
    return shape


def _shape() -> dict[str, Any]:
    """Every field of an answer, in its order, empty."""
    return dict.fromkeys(name.strip() for name in _COLUMNS.split(","))
