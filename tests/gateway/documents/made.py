"""The documents of a gateway that serves everything, made without one, and validators of their schemas."""

from datetime import timedelta
from functools import cache
from typing import Any

import jsonschema_rs
import msgspec

from core.settings import Settings
from features.online.selection import Readable
from gateway.documents.asyncapi import asyncapi
from gateway.documents.openapi import openapi, operations
from gateway.documents.schemas import Schemas
from gateway.documents.served import Served
from gateway.exchange import Request, Response
from gateway.intake import Intake
from gateway.principals import EVENTS_WRITE
from gateway.push.wiring import feeds_of
from gateway.routing import Route
from pipelines.load import load_plans, load_services
from pipelines.plan import ServedPlan
from schemas.record import Record
from tests.gateway.samples import OneSchema

AGE = timedelta(days=36_500)
JSON = "application/json"


def intake_of(record: type[Record] | None) -> Intake:
    """A door that minds no time."""
    assert record is not None
    return Intake(record, max_age=AGE, max_ahead=AGE)


@cache
def served() -> Served:
    """Everything that is shipped, prompts too."""
    plans = load_plans()
    intakes = {name: intake_of(plan.source.record) for name, plan in plans.items() if plan.takes_events}
    feeds = feeds_of((p for p in plans.values() if isinstance(p, ServedPlan)), OneSchema(), llm=True)
    readable = Readable([plan.view for plan in plans.values()], load_services())
    return Served(Settings(), plans, intakes, readable, feeds, llm=True)


async def nothing(request: Request) -> Response:
    return Response(200)


@cache
def routes() -> tuple[Route, ...]:
    """A route of each operation."""
    declared = operations(served(), Schemas())
    return tuple(Route(*name.split(" "), permission=EVENTS_WRITE, handler=nothing) for name in declared)


@cache
def openapi_document() -> Any:
    """As it goes over the wire."""
    return msgspec.json.decode(msgspec.json.encode(openapi(routes(), served())))


@cache
def asyncapi_document() -> Any:
    return msgspec.json.decode(msgspec.json.encode(asyncapi(served())))


def validator(document: Any, schema: Any) -> jsonschema_rs.Draft202012Validator:
    """Of a schema that stands in the document; formats count."""
    whole = {"components": {"schemas": document["components"]["schemas"]}, "allOf": [schema]}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def body_of(method: str, path: str) -> Any:
    """The schema of the JSON that an operation takes."""
    return openapi_document()["paths"][path][method]["requestBody"]["content"][JSON]["schema"]
