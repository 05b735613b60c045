"""Operations that take events in: one per pipeline, under its path and under a path of its own."""

from gateway.documents.operations import JSON, Answer, Operation, Operations, json_answer, merged
from gateway.documents.problems import JSON_BODY, PUBLISHED, STRICT_JSON
from gateway.documents.schemas import STRING, Schemas, array
from gateway.documents.served import Served
from gateway.events import Accepted, Outcomes

NDJSON = "application/x-ndjson"
TAG = "Events"
_PROBLEMS = merged(
    JSON_BODY,
    STRICT_JSON,
    PUBLISHED,
    {
        400: ("no_events", "invalid_key"),
        409: ("conflict",),
        413: ("too_many_events", "over_burst"),
        422: ("invalid_record",),
        503: ("registry_unavailable", "schema_not_registered"),
    },
)


def publishing(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route."""
    shared = {
        f"/api/v1/pipelines/{name}/events": _publish(served, schemas, name) for name in sorted(served.intakes)
    }
    found: dict[str, Operations] = {"POST /api/v1/pipelines/{pipeline}/events": shared}
    for name, plan in served.plans.items():
        if plan.route is not None and name in served.intakes:
            found[f"POST {plan.route}"] = {plan.route: _publish(served, schemas, name)}
    return found


def _publish(served: Served, schemas: Schemas, pipeline: str) -> Operation:
    event = schemas.submitted(served.intakes[pipeline])
    most = served.settings.gateway.max_batch_events
    topic = served.plans[pipeline].source.name
    accepted, outcomes = schemas.of(Accepted), schemas.of(Outcomes)
    several = "`outcomes` has one for each event, in their order."
    return Operation(
        summary=f"Publish events to the pipeline {pipeline}",
        tag=TAG,
        description=(
            f"One event, or up to {most} as a JSON array or one a line. Each is answered when Kafka has it, "
            f"on the topic `{topic}`. Sending an event again under its id, or without one under the same "
            "`Idempotency-Key`, publishes nothing twice. What could not be taken with 503 may be sent again "
            "unchanged."
        ),
        body={
            JSON: {"oneOf": [event, array(event, least=1, most=most)]},
            NDJSON: {**STRING, "description": "one event a line, as JSON"},
        },
        request=("Idempotency-Key",),
        answers={
            202: Answer(
                f"All are accepted. Of several, {several}",
                {JSON: {"oneOf": [accepted, outcomes]}},
                ("Location", "Idempotent-Replayed", "Server-Timing"),
            ),
            207: json_answer(f"Of several, not all are accepted: {several}", outcomes, "Server-Timing"),
        },
        problems=_PROBLEMS,
    )
