"""Operations that ask: a pipeline that scores, and what became of a request."""

from gateway.asking.endpoint import Standing
from gateway.documents.answers import RequestPending, ScoredRequest
from gateway.documents.operations import (
    EVENT_STREAM,
    EVENTS,
    JSON,
    Answer,
    Operation,
    Operations,
    Parameter,
    json_answer,
    merged,
)
from gateway.documents.problems import JSON_BODY, PUBLISHED, SERVER_CODES, STRICT_JSON
from gateway.documents.schemas import Schemas
from gateway.documents.served import Served
from gateway.intake import ID_SHAPE

TAG = "Asking"
ASKED_HEADERS = ("Idempotency-Key", "Prefer", "Cache-Control", "Last-Event-ID")
_ANSWERED = (
    "Preference-Applied",
    "Idempotent-Replayed",
    "Cache-Status",
    "Cache-Control",
    "Age",
    "Server-Timing",
)
_PROBLEMS = merged(
    JSON_BODY,
    STRICT_JSON,
    PUBLISHED,
    {
        400: ("invalid_key", "invalid_option"),
        409: ("conflict",),
        413: ("over_burst",),
        422: ("invalid_record", "not_scored"),
        503: (
            "cancelled", "model_unavailable", "redis_unavailable", "replies_unavailable",
            "schema_not_registered", "unavailable", *SERVER_CODES,
        ),
        504: ("deadline_exceeded", "not_cached"),
    },
)  # fmt: skip


def asking(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route."""
    asked = {f"/api/v1/pipelines/{name}/infer": _ask(served, schemas, name) for name in served.asked}
    request = {"/api/v1/requests/{id}": _request(schemas)}
    return {
        "POST /api/v1/pipelines/{pipeline}/infer": asked,
        "GET /api/v1/requests/{id}": request,
    }


def _ask(served: Served, schemas: Schemas, pipeline: str) -> Operation:
    settings = served.settings.asking
    reuse = served.asked[pipeline].reuse
    kept = (
        "Every request is scored anew."
        if reuse is None
        else f"An answer may be given again for {reuse.lasts.total_seconds():g} s, as `Cache-Control` wants; "
        "`Cache-Status` and `Age` say so."
    )
    return Operation(
        summary=f"Ask the pipeline {pipeline} what it would decide of a record now",
        tag=TAG,
        description=(
            f"Nothing is published. The answer is waited for {settings.wait_s:g} s, or as `Prefer` says, up "
            f"to {settings.longest_wait_s:g} s; with `respond-async` there are {settings.background_s:g} s. "
            f"{kept} With `Accept: text/event-stream` the answer comes as events: `answer`, the whole, at "
            "the end, or `error` with a problem."
        ),
        body={JSON: schemas.submitted(served.intakes[pipeline])},
        request=ASKED_HEADERS,
        answers={
            200: Answer(
                "The decision.",
                {
                    JSON: schemas.of(ScoredRequest),
                    EVENT_STREAM: EVENTS,
                },
                _ANSWERED,
            ),
            202: json_answer(
                "Asked; the answer is to be fetched.",
                schemas.of(RequestPending),
                "Location",
                "Retry-After",
                "Preference-Applied",
            ),
        },
        problems=_PROBLEMS,
        relayed=frozenset({422, 503}),
    )


def _request(schemas: Schemas) -> Operation:
    return Operation(
        summary="What became of a request, on any gateway",
        tag=TAG,
        description=(
            "`state` is `pending`, `answered` (with `status` and `answer`), `failed` (with `problem`), "
            "`expired` or `cancelled`. Requests are known for the time that outcomes are kept."
        ),
        path=(
            Parameter(
                "id",
                "The id of the request, or its Idempotency-Key.",
                {"type": "string", "pattern": f"^{ID_SHAPE.pattern}$"},
            ),
        ),
        answers={200: json_answer("How it stands.", schemas.of(Standing), "Retry-After")},
        problems={404: ("not_found",), 503: ("unavailable",)},
        relayed=frozenset({503}),
    )
