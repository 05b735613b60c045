"""The ledger of paid calls in PostgreSQL. See `operators.generate_ports.PaidCalls`.

Each step is one statement that names the state and the owner that it starts from, committed before the call
that it stands for. So of two processes that claim the same row one makes the call, and after a crash anywhere
the row says whether the call may have been made.
"""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from core.errors import Conflict, Unavailable
from operators.generate_ports import Claim

TABLE = """
CREATE TABLE IF NOT EXISTS paid_calls (
    tenant text NOT NULL,
    id text NOT NULL,
    digest text NOT NULL,
    owner text NOT NULL,
    state text NOT NULL CHECK (state IN ('begun', 'paid', 'answered')),
    answer bytea,
    begun_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id)
)
"""
WAIT_S = 2.0
_ONLY_ONE = 0x70616964  # advisory lock: CREATE TABLE IF NOT EXISTS is not safe between two processes
_BEGIN = """
INSERT INTO paid_calls (tenant, id, digest, owner, state) VALUES (%s, %s, %s, %s, 'begun')
ON CONFLICT (tenant, id) DO UPDATE SET owner = EXCLUDED.owner, changed_at = now()
    WHERE paid_calls.state = 'begun' AND paid_calls.digest = EXCLUDED.digest
RETURNING owner
"""
_READ = "SELECT state, digest, answer FROM paid_calls WHERE tenant = %s AND id = %s"
_PAYING = """
UPDATE paid_calls SET state = 'paid', changed_at = now()
WHERE tenant = %s AND id = %s AND owner = %s AND state = 'begun'
"""
_UNPAID = """
UPDATE paid_calls SET state = 'begun', changed_at = now()
WHERE tenant = %s AND id = %s AND owner = %s AND state = 'paid'
"""
_ANSWERED = """
UPDATE paid_calls SET state = 'answered', answer = %s, changed_at = now()
WHERE tenant = %s AND id = %s AND owner = %s AND state = 'paid'
"""


class PostgresLedger:
    """`pool`: open connections in autocommit. The table is made at the first claim."""

    def __init__(self, pool: "AsyncConnectionPool[psycopg.AsyncConnection[tuple[object, ...]]]") -> None:
        self._pool = pool
        self._made = False

    async def begin(self, tenant: str, id: str, digest: str) -> Claim | bytes:
        owner = uuid.uuid4().hex
        async with self._connection() as connection:
            if not self._made:
                async with connection.transaction():
                    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ONLY_ONE,))
                    await connection.execute(TABLE)
                self._made = True
            claimed = await connection.execute(_BEGIN, (tenant, id, digest, owner))
            if await claimed.fetchone() is not None:
                return Claim(tenant, id, owner)
            row = await (await connection.execute(_READ, (tenant, id))).fetchone()
        if row is None:
            raise Unavailable(f"the ledger's row of {id!r} went away", where="ledger of paid calls")
        state, known, answer = row
        if known != digest:
            raise Conflict(f"id {id[:100]!r} was another question", mend="give each question its own id")
        if state == "answered" and isinstance(answer, bytes):
            return answer
        raise Conflict(
            f"question {id[:100]!r} was sent to a paid server and has no answer; it is not sent again",
            where="ledger of paid calls",
            mend="ask with a new id, or wait for the answer where another call still waits for it",
            code="paid_without_answer",
        )

    async def paying(self, claim: Claim) -> None:
        if not await self._changed(_PAYING, (claim.tenant, claim.id, claim.owner)):
            raise Conflict(
                f"question {claim.id[:100]!r} is being answered by another process",
                where="ledger of paid calls",
                mend="ask for its answer with the same id a little later",
                code="claimed_elsewhere",
            )

    async def unpaid(self, claim: Claim) -> None:
        await self._changed(_UNPAID, (claim.tenant, claim.id, claim.owner))

    async def answered(self, claim: Claim, answer: bytes) -> None:
        if not await self._changed(_ANSWERED, (answer, claim.tenant, claim.id, claim.owner)):
            raise Unavailable(f"the ledger's row of {claim.id!r} went away", where="ledger of paid calls")

    async def _changed(self, statement: str, values: tuple[object, ...]) -> bool:
        async with self._connection() as connection:
            return (await connection.execute(statement.encode(), values)).rowcount == 1

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator["psycopg.AsyncConnection[tuple[object, ...]]"]:
        try:
            async with self._pool.connection(timeout=WAIT_S) as connection:
                yield connection
        except (psycopg.OperationalError, PoolTimeout, OSError) as error:
            raise Unavailable(
                f"PostgreSQL: {type(error).__name__}: {error}"[:300],
                where="ledger of paid calls",
                mend="no call that costs money is made without it",
            ) from error
