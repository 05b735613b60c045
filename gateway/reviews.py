"""The review queue by HTTP: list what waits for an analyst, and decide it.

`GET /api/v1/reviews?state=open|decided&limit=50&after=CURSOR` and
`POST /api/v1/reviews/{id}/decision` with `{"verdict": "fraud" | "legitimate", "note": ..., "reviewer": ...}`.
The verdict is on Kafka when the answer (202) is given; the status follows a moment later and is pushed.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import msgspec
import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from core.clock import Clock
from core.errors import InvalidInput, Malformed, Rejected, Unavailable, UnknownName
from gateway import strict_json
from gateway.bodies import JSON, content_type
from gateway.exchange import Request, Response, json_response
from gateway.intake import Explainer
from gateway.problems import NotFound, UnsupportedMediaType
from pipelines.reviews import PublishesVerdicts, State, decide, find_review, list_reviews

T = TypeVar("T")
_MAX_BODY = 16 * 1024
_STATES = ("open", "decided")


class VerdictBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an analyst says. Without `reviewer` it is the id of the key."""

    verdict: str
    note: str | None = None
    reviewer: str | None = None


class ReviewsEndpoint:
    """The handlers. `publishers` publish verdicts, by pipeline; `require` raises while Kafka is known to be
    away, so that nobody waits for an acknowledgement that does not come."""

    def __init__(
        self,
        pool: ConnectionPool[Any],
        publishers: Mapping[str, PublishesVerdicts],
        clock: Clock,
        *,
        require: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._publishers = publishers
        self._clock = clock
        self._require = require

    async def get(self, request: Request) -> Response:
        asked = request.option("state")
        state = "open" if asked is None else asked
        if state not in _STATES:
            raise InvalidInput(f"state {state[:40]!r}", code="invalid_option", mend="open or decided")
        limit = request.count("limit", default=50, most=500)
        after = request.option("after")
        page = await self._in_thread(
            lambda connection: list_reviews(
                connection,
                tenant=request.principal.tenant,
                state=cast(State, state),
                limit=limit,
                after=after,
            )
        )
        return json_response(200, page)

    async def decide(self, request: Request) -> Response:
        if content_type(request) != JSON:
            raise UnsupportedMediaType("one verdict at a time", mend=f"send {JSON}")
        body = _read(await request.body(_MAX_BODY))
        self._require()
        tenant, id = request.principal.tenant, request.parameters["id"]
        reviewer = body.reviewer or request.principal.credential

        def work(connection: psycopg.Connection[Any]) -> Any:
            pipeline = find_review(connection, tenant=tenant, id=id).pipeline
            publisher = self._publishers.get(pipeline)
            if publisher is None:
                raise UnknownName("pipeline", pipeline, self._publishers)
            return decide(
                connection,
                publisher,
                self._clock,
                tenant=tenant,
                id=id,
                verdict=body.verdict,
                reviewer=reviewer,
                note=body.note,
            )

        try:
            verdict = await self._in_thread(work)
        except UnknownName as error:
            raise NotFound(f"no review {id[:128]!r}") from error
        return json_response(202, verdict, [("location", f"/api/v1/transactions/{id}")])

    async def _in_thread(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        def run() -> T:
            try:
                with self._pool.connection(timeout=1.0) as connection:
                    return work(connection)
            except (psycopg.OperationalError, psycopg.errors.UndefinedTable, PoolTimeout) as error:
                raise Unavailable("PostgreSQL is away", code="database_unavailable") from error
            except psycopg.DataError as error:  # a cursor that was tampered with
                raise InvalidInput("the database takes no such value", code="invalid_option") from error

        return await asyncio.to_thread(run)


_decoder = msgspec.json.Decoder(VerdictBody)
_explainer = Explainer()
_HINTS = {"verdict": str, "note": str | None, "reviewer": str | None}


def _read(raw: bytes) -> VerdictBody:
    strict_json.check(raw)
    try:
        body = _decoder.decode(raw)
    except msgspec.ValidationError:
        problems, _ = _explainer.fields(raw, _HINTS, ("verdict",))
        raise Rejected("no valid verdict", fields=problems) from None
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None
    if any(value is not None and "\x00" in value for value in (body.verdict, body.note, body.reviewer)):
        raise Rejected("no valid verdict", fields={"": "the character U+0000 is not accepted"})
    return body
