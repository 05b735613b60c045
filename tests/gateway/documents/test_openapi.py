"""The OpenAPI document: a valid one, of every route, whose schemas say what the gateway's validators say."""

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from core.errors import DeclarationError, InvalidInput
from core.settings import Llm
from gateway.documents.generating import chat_body, prompt_body
from gateway.documents.openapi import openapi
from gateway.documents.schemas import Schemas
from gateway.principals import EVENTS_WRITE
from gateway.routing import Route
from operators.generate_request import Limits, parse_chat, parse_prompt
from schemas.catalog.user_events import UserEvent
from tests.gateway.documents.made import (
    intake_of,
    nothing,
    openapi_document,
    routes,
    served,
    validator,
)
from tests.gateway.samples import Payment, payment

OTHERS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, 2**31, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 1e39, 3.5e38,
    "", "x", "x" * 200, "x" * 600, "a b", "1", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "card", "cash",
    [], [1], ["x"], [None], {}, {"x": 1}, {"sku": "s"}, {"sku": "s", "weights": [1.5]}, {"sku": 1},
    {"sku": "s", "more": 1}, [{"role": "user", "content": "x"}], [{"role": "nobody", "content": "x"}],
    [{"role": "user", "content": [{"text": "x"}]}], [{"role": "user"}], ["a", "b", "c", "d", "e"],
)  # fmt: skip


def test_the_document_is_a_valid_one() -> None:
    """By the specification's schema and rules. The largest record would take a minute, and is like others."""
    document = json.loads(json.dumps(openapi_document()))
    large = document["components"]["schemas"]["SubmittedTransaction"]
    large["properties"] = dict(list(large["properties"].items())[:20])
    large["required"] = [name for name in large["required"] if name in large["properties"]]
    problems = [
        f"{list(problem.absolute_path)}: {problem.message}"
        for problem in OpenAPIV31SpecValidator(document).iter_errors()
    ]
    assert not problems


def test_a_route_that_no_operation_describes_does_not_start() -> None:
    unknown = Route("GET", "/api/v1/secret", EVENTS_WRITE, nothing)
    with pytest.raises(DeclarationError, match="a route that no document describes"):
        openapi((*routes(), unknown), served())


def test_every_operation_tells_of_its_scope_its_request_id_and_its_problems() -> None:
    for path, methods in openapi_document()["paths"].items():
        for operation in methods.values():
            assert operation["security"] == [{"bearer": [EVENTS_WRITE]}, {"key": [EVENTS_WRITE]}], path
            assert {"401", "403", "429", "503"} <= operation["responses"].keys(), path
            for status, answer in operation["responses"].items():
                assert "X-Request-ID" in answer["headers"], path
                assert ("Retry-After" in answer["headers"]) >= (status == "429"), path


def test_every_reference_leads_somewhere() -> None:
    document = openapi_document()
    for reference in _references(document):
        part: Any = document
        for name in reference.removeprefix("#/").split("/"):
            assert name in part, reference
            part = part[name]


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(found := part.get("$ref"), str):
            yield found
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def _variants(body: dict[str, Any], names: list[str], seed: int, count: int) -> Iterator[dict[str, Any]]:
    """The body with fields that are missing, unknown, or have another value."""
    chosen = random.Random(seed)
    for _ in range(count):
        made = dict(body)
        for _ in range(chosen.choice((1, 1, 2))):
            name = chosen.choice([*names, "unknown"])
            if chosen.random() < 0.15:
                made.pop(name, None)
            else:
                made[name] = chosen.choice(OTHERS)
        yield made


def _agree(accepts: Callable[[bytes], Any], schema: Any, document: Any, bodies: Iterator[Any]) -> None:
    """The schema takes what the gateway takes, and nothing else."""
    valid = validator(document, schema)
    seen = {True: 0, False: 0}
    for body in bodies:
        raw = msgspec.json.encode(body)
        try:
            accepts(raw)
            accepted, why = True, ""
        except InvalidInput as error:
            accepted, why = False, str(getattr(error, "fields", error))
        assert valid.is_valid(json.loads(raw)) == accepted, (body, why)
        seen[accepted] += 1
    assert min(seen.values()) > 50


@pytest.mark.parametrize(
    ("record", "body"),
    [
        (Payment, payment()),
        (
            UserEvent,
            {"user_id": "u", "region": "r", "kind": "k", "occurred_at": datetime.now(UTC).isoformat()},
        ),
    ],
)
def test_events_that_are_accepted_are_those_that_the_schema_takes(record: Any, body: dict[str, Any]) -> None:
    intake, schemas = intake_of(record), Schemas()
    schema = schemas.submitted(intake)
    names = [*record.__struct_fields__]
    names.remove("tenant")
    document = {"components": {"schemas": schemas.components}}
    _agree(lambda raw: intake.read(raw, "acme"), schema, document, _variants(body, names, 7, 1_500))


LLM = Llm(max_prompt_bytes=500, max_tokens=100)
LIMITS = Limits(LLM.max_prompt_bytes, LLM.max_tokens)


def test_prompts_that_are_accepted_are_those_that_the_schema_takes() -> None:
    schema = prompt_body(LLM)
    bodies = _variants({"prompt": "hello"}, list(schema["properties"]), 8, 1_500)
    _agree(lambda raw: parse_prompt(raw, LIMITS), schema, openapi_document(), bodies)


def test_chats_that_are_accepted_are_those_that_the_schema_takes() -> None:
    schema = chat_body(LLM)
    names = [name for name in schema["properties"] if name != "stream_options"]
    bodies = _variants({"messages": [{"role": "user", "content": "x"}]}, names, 9, 1_500)
    _agree(lambda raw: parse_chat(raw, LIMITS), schema, openapi_document(), bodies)
