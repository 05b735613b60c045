"""The OpenAPI 3.1 document of the routes that are served.

Every route has a declared operation, or several; one without does not start (`DeclarationError`).
"""

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

from core.errors import DeclarationError
from gateway.documents import headers
from gateway.documents.asking import asking
from gateway.documents.forwarding import forwarding
from gateway.documents.generating import generating
from gateway.documents.operations import Answer, Operation, Operations, Parameter, merged
from gateway.documents.people import people
from gateway.documents.problems import CODES, coded, of_door
from gateway.documents.publishing import publishing
from gateway.documents.reading import reading
from gateway.documents.schemas import Schema, Schemas
from gateway.documents.served import Served
from gateway.documents.serving import serving, training
from gateway.documents.surroundings import surroundings
from gateway.principals import OPEN, PROBE
from gateway.problems import Problem
from gateway.routing import Route

Document = dict[str, Any]
_PARTS: tuple[Callable[[Served, Schemas], dict[str, Operations]], ...] = (
    publishing,
    asking,
    reading,
    generating,
    forwarding,
    serving,
    training,
    people,
    surroundings,
)
_EVERY_REQUEST = ("X-Request-ID", "traceparent")
_ANY_PROBLEM = {
    400: "The request makes no sense.",
    401: "No credential, or none that is valid.",
    403: "The permission is missing.",
    404: "Nothing there.",
    408: "The body was not there in time.",
    409: "What was asked for contradicts what is.",
    411: "A body without a declared length.",
    413: "Too large.",
    414: "The path and query are too long.",
    415: "The body is of a type that is not taken.",
    422: "What the body says is wrong.",
    429: "Too much in so short a time.",
    431: "The head is too large.",
    500: "Something went wrong here.",
    503: "Not now.",
    504: "Not in time.",
}
ABOUT = (
    "Events go in, decisions come out. Errors are RFC 9457 problem documents; `code` is stable and is what "
    "a client switches on, `retryable` says whether the same request can succeed later without a change. "
    "The tenant is that of the credential. A request with `HEAD` is answered as `GET` without the body. "
    "What is pushed, and the topics, are in `/asyncapi.json`."
)


def operations(served: Served, schemas: Schemas) -> dict[str, Operations]:
    """By route, of all routes that there are with any settings."""
    found: dict[str, Operations] = {}
    for part in _PARTS:
        found |= part(served, schemas)
    return found


def openapi(routes: Iterable[Route], served: Served) -> Document:
    """Raises DeclarationError for a route without an operation, or for a code without a meaning."""
    schemas = Schemas()
    problem = schemas.of(Problem)
    declared = operations(served, schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.name not in declared:
            raise DeclarationError(
                "a route that no document describes",
                where=route.name,
                mend="declare its operation in gateway/documents",
            )
        for path, operation in declared[route.name].items():
            paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, operation, problem)
    components = {
        "schemas": schemas.components,
        "headers": headers.response_headers(),
        "parameters": headers.request_headers(),
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key (`millstream keys create`), the access token of a user "
                "(`POST /api/v1/auth/login`), or a token of the issuer in the settings.",
            },
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
        },
    }
    document = {
        "openapi": "3.1.1",
        "info": {"title": "Millstream", "version": version("millstream"), "description": ABOUT},
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": components,
    }
    components["schemas"] = _used(document, schemas.components)
    return document


def _operation(route: Route, path: str, operation: Operation, problem: Schema) -> Document:
    limited = route.permission != PROBE
    made: Document = {
        "operationId": _id(route.method, path),
        "summary": operation.summary,
        "tags": [operation.tag],
        "description": operation.description,
        "parameters": _parameters(operation),
        "responses": {
            **{str(status): _answer(one, limited) for status, one in operation.answers.items()},
            **_problems(route, operation, problem),
        },
        "security": []
        if route.permission in OPEN
        else [{"bearer": [route.permission]}, {"key": [route.permission]}],
    }
    if not operation.description:
        del made["description"]
    if operation.body:
        content = {kind: {"schema": schema} for kind, schema in operation.body.items()}
        made["requestBody"] = {"required": not operation.optional_body, "content": content}
    return made


def _parameters(operation: Operation) -> list[Document]:
    found = [_parameter(one, "path") | {"required": True} for one in operation.path]
    found += [_parameter(one, "query") | {"required": one.required} for one in operation.query]
    return found + [
        {"$ref": f"#/components/parameters/{headers.component(name)}"}
        for name in (*operation.request, *_EVERY_REQUEST)
    ]


def _parameter(one: Parameter, place: str) -> Document:
    return {"name": one.name, "in": place, "description": one.description, "schema": one.schema}


def _answer(answer: Answer, limited: bool) -> Document:
    made: Document = {"description": answer.description, "headers": _headers(answer.headers, limited)}
    if answer.contents:
        made["content"] = {kind: {"schema": schema} for kind, schema in answer.contents.items()}
    return made


def _problems(route: Route, operation: Operation, usual: Schema) -> Document:
    found: Document = {}
    for status, codes in merged(of_door(route), operation.problems).items():
        if status in operation.answers:
            continue  # a probe's own
        unknown = [code for code in codes if code not in CODES and not code.startswith("server_")]
        if unknown:
            raise DeclarationError(
                f"codes without a meaning: {', '.join(unknown)}", where=route.name, mend="add them to CODES"
            )
        schema = usual if operation.problem is None else operation.problem
        if operation.problem is None:
            relayed = status in operation.relayed
            if status in operation.differing:
                schema = operation.differing[status]
            schema = coded(schema, status, codes, relayed=relayed)
        more = {
            401: ("WWW-Authenticate",),
            429: ("Retry-After",),
            503: ("Retry-After",),
            504: ("Retry-After",),
        }
        listed = ", ".join(f"`{code}`" for code in codes)
        text = f"{_ANY_PROBLEM[status]} {listed}{', …' if status in operation.relayed else ''}"
        found[str(status)] = {
            "description": text,
            "headers": _headers(more.get(status, ()), route.permission != PROBE),
            "content": {operation.problem_type: {"schema": schema}},
        }
    return found


def _headers(own: Iterable[str], limited: bool) -> Document:
    every = ("X-Request-ID", *(("RateLimit-Policy", "RateLimit") if limited else ()))
    return {name: {"$ref": f"#/components/headers/{headers.component(name)}"} for name in (*every, *own)}


def _id(method: str, path: str) -> str:
    words = path.replace("{", "").replace("}", "").replace(".", "/").replace("-", "_").split("/")
    return "_".join([method.lower(), *(word for word in words if word)])


def _used(document: Document, components: Mapping[str, Schema]) -> dict[str, Schema]:
    """The components that the document refers to, those included that they refer to."""
    found: dict[str, Schema] = {}
    waiting = list(references(document["paths"]))
    while waiting:
        name = waiting.pop()
        if name in components and name not in found:
            found[name] = components[name]
            waiting += references(components[name])
    return dict(sorted(found.items()))


def references(part: Any) -> Iterable[str]:
    """The names of the schemas that a part of a document refers to."""
    if isinstance(part, Mapping):
        for name, value in part.items():
            if name == "$ref" and isinstance(value, str):
                yield value.rpartition("/")[2]
            else:
                yield from references(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from references(value)
