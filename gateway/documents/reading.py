"""Operations that read: the status of events, features, and reviews, with their decision."""

from datetime import datetime

from features.online.reading import EntityFeatures, FeatureValue
from features.online.selection import entity_fields
from features.view import FeatureView
from gateway.documents.answers import TransactionState
from gateway.documents.operations import (
    JSON,
    Operation,
    Operations,
    Parameter,
    json_answer,
    merged,
)
from gateway.documents.problems import JSON_BODY, STRICT_JSON
from gateway.documents.schemas import STRING, TIME, Schema, Schemas, array, nullable, record
from gateway.documents.served import Served
from gateway.features import MOST_ENTITIES, MOST_FEATURES, MOST_VALUES
from gateway.routing import MAX_SEGMENT
from pipelines.reviews import MOST_PER_PAGE, NOTE_LIMIT, VERDICTS, ReviewPage
from schemas.catalog.decisions import Verdict

SEGMENT: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_SEGMENT}


def reading(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route."""
    views = served.readable.views
    return {
        "GET /api/v1/transactions/{id}": {"/api/v1/transactions/{id}": _transaction(schemas)},
        "GET /api/v1/features/{view}/{entity}": {
            f"/api/v1/features/{name}/{{entity}}": _view(views[name], schemas) for name in sorted(views)
        },
        "POST /api/v1/features/read": {"/api/v1/features/read": _features(served, schemas)},
        "GET /api/v1/reviews": {"/api/v1/reviews": _reviews(schemas)},
        "POST /api/v1/reviews/{id}/decision": {"/api/v1/reviews/{id}/decision": _decide(schemas)},
    }


def _transaction(schemas: Schemas) -> Operation:
    return Operation(
        summary="The status of an event, right after its 202 and ever after",
        tag="Events",
        path=(Parameter("id", "The id of the event.", SEGMENT),),
        answers={200: json_answer("Its status.", schemas.of(TransactionState))},
        problems={404: ("not_found",), 503: ("database_unavailable", "unavailable")},
        relayed=frozenset({503}),
    )


def _view(view: FeatureView, schemas: Schemas) -> Operation:
    fields = entity_fields(((view, ()),))
    value = schemas.of(FeatureValue)
    features = {
        feature.name: {**value, "description": f"in {feature.unit}"} if feature.unit else value
        for feature in view.features
    }
    answer = record(
        {
            "view": {"const": view.name},
            "entity": STRING,
            "as_of": TIME,
            "features": record(features),
        }
    )
    described = " and ".join(f"`{name}`" for name in fields)
    joined = "" if len(fields) == 1 else ", joined by |, with % and | inside them as %25 and %7C"
    return Operation(
        summary=f"The features of one entity, of the view {view.name}",
        tag="Features",
        description="An entity that was never seen has the empty values, with the status `missing`.",
        path=(Parameter("entity", f"Its {described}{joined}.", SEGMENT),),
        answers={200: json_answer("Value, event time, age and status of each.", answer)},
        problems={422: ("invalid_request",), 503: ("redis_unavailable", "queue_full")},
    )


def _features(served: Served, schemas: Schemas) -> Operation:
    readable = served.readable
    names = sorted(f"{view.name}:{name}" for view in readable.views.values() for name in view.feature_names)
    properties: dict[str, Schema] = {
        "features": array({"type": "string", "examples": names[:3]}, least=1, most=MOST_FEATURES),
        "service": {"type": "string", "enum": sorted(readable.services)} if readable.services else STRING,
        "entities": array(
            {"anyOf": [STRING, {"type": "object", "additionalProperties": STRING}]},
            least=1,
            most=MOST_ENTITIES,
        ),
        "as_of": {**schemas.of(datetime), "description": "a recent time, where all the views are rolling"},
    }
    optional = {name: nullable(schema) for name, schema in properties.items() if name != "entities"}
    body = record(properties | optional, required=("entities",))
    return Operation(
        summary="Features of many entities and several views",
        tag="Features",
        description=(
            "Either `features`, each written `view:feature`, or a `service`, which is a list of them. An "
            "entity is an object of its fields, or the value alone where the views have one and the same "
            f"field. At most {MOST_VALUES} values: entities times features."
        ),
        body={JSON: body},
        answers={
            200: json_answer(
                "One of each entity, in their order.",
                record({"as_of": TIME, "entities": array(schemas.of(EntityFeatures))}),
            )
        },
        problems=merged(
            JSON_BODY,
            STRICT_JSON,
            {
                404: ("unknown_view", "unknown_feature", "unknown_service"),
                413: ("too_many_entities", "too_many_features", "too_many_values"),
                422: ("invalid_request",),
                503: ("redis_unavailable", "queue_full"),
            },
        ),
    )


def _reviews(schemas: Schemas) -> Operation:
    return Operation(
        summary="What waits for a person's decision, oldest first",
        tag="Reviews",
        query=(
            Parameter("state", "Which ones.", {"enum": ["open", "decided"], "default": "open"}),
            limit(MOST_PER_PAGE),
            Parameter("after", "The `after` of the page before."),
        ),
        answers={200: json_answer("A page; `after` is null at the end.", schemas.of(ReviewPage))},
        problems={400: ("invalid_option",), 422: ("invalid_record",), 503: ("database_unavailable",)},
    )


def _decide(schemas: Schemas) -> Operation:
    body = record(
        {
            "verdict": {"enum": list(VERDICTS)},
            "note": nullable({"type": "string", "maxLength": NOTE_LIMIT}),
            "reviewer": nullable({**STRING, "description": "who decides; the id of the key where left out"}),
        },
        required=("verdict",),
    )
    return Operation(
        summary="Decide a review",
        tag="Reviews",
        description="The verdict is on Kafka when this is answered; the status follows a moment later.",
        path=(Parameter("id", "The id of the event.", SEGMENT),),
        body={JSON: body},
        answers={202: json_answer("The verdict.", schemas.of(Verdict), "Location")},
        problems=merged(
            JSON_BODY,
            STRICT_JSON,
            {
                404: ("not_found",),
                409: ("already_reviewed",),
                422: ("invalid_record",),
                503: ("database_unavailable", "kafka_unavailable"),
            },
        ),
    )


def limit(most: int) -> Parameter:
    """How many are answered at most."""
    return Parameter(
        "limit", f"How many, 1 to {most}.", {"type": "integer", "minimum": 1, "maximum": most, "default": 50}
    )
