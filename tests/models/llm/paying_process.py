"""A process that asks one question through the ledger: `DATABASE SERVER ID STAGE`.

After `STAGE` (`begun`, `paying`, `answered`) it says so and waits to be killed; with `none` it prints the
answer, or the code of the error.
"""

import asyncio
import sys

from psycopg_pool import AsyncConnectionPool

from core.clock import SystemClock
from core.errors import MillstreamError
from models.llm.client import HttpLanguageServer
from models.llm.ledger import PostgresLedger
from models.llm.servers import Unbroken
from operators.answer_statistics import RollingStatistics
from operators.generate import Generate
from operators.generate_ports import Claim
from operators.generate_request import Limits
from operators.server_pool import Member, ServerPool
from tests.operators.generating import Heard, asked


class Pausing(PostgresLedger):
    """Waits for ever after one of its steps was committed."""

    stage = "none"

    async def begin(self, tenant: str, id: str, digest: str) -> Claim | bytes:
        found = await super().begin(tenant, id, digest)
        await self._pause("begun")
        return found

    async def paying(self, claim: Claim) -> None:
        await super().paying(claim)
        await self._pause("paying")

    async def answered(self, claim: Claim, answer: bytes) -> None:
        await super().answered(claim, answer)
        await self._pause("answered")

    async def _pause(self, stage: str) -> None:
        if self.stage == stage:
            print(stage, flush=True)
            await asyncio.Event().wait()


async def main(database: str, url: str, id: str, stage: str) -> None:
    async with AsyncConnectionPool(database, min_size=1, open=False, kwargs={"autocommit": True}) as pool:
        ledger = Pausing(pool)
        ledger.stage = stage
        clock = SystemClock()
        member = Member(HttpLanguageServer("s", "fake", url), slots=1, breaker=Unbroken(), clock=clock)
        servers = ServerPool([member], queue=1, clock=clock)
        member.state = type(member.state)("active")
        generate = Generate(servers, RollingStatistics(clock), limits=Limits(), clock=clock, ledger=ledger)
        try:
            answer = await generate.answer(asked(id=id), Heard())
            print("answer", answer.body.decode(), flush=True)
        except MillstreamError as error:
            print("error", error.code, flush=True)
        await member.server.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
