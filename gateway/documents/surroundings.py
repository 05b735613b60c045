"""Operations beside the data: probes, metrics, the stream of events, and these documents."""

from gateway.documents.answers import Alive, HealthState, Readiness, Started
from gateway.documents.operations import (
    EVENT_STREAM,
    EVENTS,
    Answer,
    Operation,
    Operations,
    Parameter,
    json_answer,
)
from gateway.documents.schemas import STRING, Schemas
from gateway.documents.served import Served
from gateway.health import METRICS_TYPE
from gateway.push import frames
from gateway.server import STREAM_PATH

OPENAPI, ASYNCAPI, PAGE = "/openapi.json", "/asyncapi.json", "/docs"
HTML = "text/html; charset=utf-8"
_PROBES, _DOCUMENTS = "Probes", "Documents"


def surroundings(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route."""
    paths = {
        STREAM_PATH: _stream(served),
        "/livez": Operation(
            summary="Whether the process is alive",
            tag=_PROBES,
            answers={200: json_answer("It is.", schemas.of(Alive))},
        ),
        "/health": Operation(
            summary="Whether our own parts work, and what is seen around",
            tag=_PROBES,
            description="A dependency that is away makes it `degraded`, not failing.",
            answers={
                200: json_answer("Our own parts work.", schemas.of(HealthState)),
                503: json_answer("One does not, and a restart is wanted.", schemas.of(HealthState)),
            },
        ),
        "/ready": _ready(schemas),
        "/readyz": _ready(schemas),
        "/startupz": Operation(
            summary="Whether every part of ours has worked once",
            tag=_PROBES,
            answers={
                200: json_answer("It has.", schemas.of(Started)),
                503: json_answer("Not yet.", schemas.of(Started)),
            },
        ),
        "/metrics": Operation(
            summary="Metrics for Prometheus",
            tag=_PROBES,
            answers={200: Answer("The metrics.", {METRICS_TYPE: STRING})},
        ),
        OPENAPI: _document("This document, OpenAPI 3.1"),
        ASYNCAPI: _document("What is pushed, and the topics: AsyncAPI 3"),
        PAGE: Operation(
            summary="Both documents as a page, without scripts",
            tag=_DOCUMENTS,
            answers={200: Answer("The page.", {HTML: STRING}, ("Content-Security-Policy",))},
        ),
    }
    return {f"GET {path}": {path: operation} for path, operation in paths.items()}


def _ready(schemas: Schemas) -> Operation:
    return Operation(
        summary="Whether requests would be served now",
        tag=_PROBES,
        query=(Parameter("verbose", "With every check."),),
        answers={
            200: json_answer("They would.", schemas.of(Readiness)),
            503: json_answer("They would not; `reason` says why.", schemas.of(Readiness)),
        },
    )


def _document(summary: str) -> Operation:
    return Operation(
        summary=summary,
        tag=_DOCUMENTS,
        answers={200: json_answer("The document.", {"type": "object"})},
    )


def _stream(served: Served) -> Operation:
    channels = list(dict.fromkeys(["entity", *(feed.kind for feed in served.feeds)]))
    policies = ["drop_oldest", "coalesce_by_key", "disconnect"]
    return Operation(
        summary="Be pushed what a channel has, as server-sent events",
        tag="Push",
        description=(
            "The first event is `subscribed`; those after it have no name. The `id` of each is a set of "
            "positions, which a client sends back as `Last-Event-ID` to go on from there. The same path "
            f"takes WebSockets; both are described in [{ASYNCAPI}]({ASYNCAPI})."
        ),
        query=(
            Parameter("channel", "What is pushed.", {"enum": channels}, required=True),
            Parameter("pipeline", "Of which pipeline, or source of alerts."),
            Parameter("entity", "About which entity."),
            Parameter("filter", "As JSON: for each field the value, or the values, that it must have."),
            Parameter(
                "policy",
                "What happens to a client that does not keep up.",
                {"enum": policies, "default": "disconnect"},
            ),
            Parameter("since", f"As `Last-Event-ID`; at most {frames.MAX_POSITIONS} positions."),
        ),
        request=("Last-Event-ID",),
        answers={200: Answer("A stream that does not end.", {EVENT_STREAM: EVENTS})},
        problems={
            400: ("invalid_option", "invalid_position", "too_many_positions"),
            404: ("unknown_channel",),
            422: ("invalid_channel", "invalid_filter"),
            503: ("channel_starting", "queue_full", "unavailable"),
        },
        relayed=frozenset({503}),
    )
