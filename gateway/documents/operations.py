"""What a document says of one operation, beside what its route says itself (method, path, permission)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.documents.schemas import STRING, Schema
from gateway.problems import CONTENT_TYPE

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
EVENTS: Schema = {
    "description": "server-sent events, of which each may have these fields",
    "properties": {"event": STRING, "data": STRING, "id": STRING},
}
"""Of a stream. Without a type: the whole is a text, and tools hold each of its events against it."""
Codes = Mapping[int, tuple[str, ...]]
"""Codes of problems, by the status that they come with."""


@dataclass(frozen=True)
class Parameter:
    """An option of the query, a header, or a value of the path."""

    name: str
    description: str
    schema: Schema = field(default_factory=lambda: STRING)
    required: bool = False


@dataclass(frozen=True)
class Answer:
    """An answer that is no problem. contents: schema by content type; none: it has no body. headers: those
    that it may have beside those of every answer; see `headers.RESPONSE`."""

    description: str
    contents: Mapping[str, Schema] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """body: schema by content type of what it takes. request: names of headers that it heeds, see
    `headers.REQUEST`. problems: those of its handler; the door's are added (`problems.of_door`).

    relayed: statuses under which whoever answers may tell of other codes, too. problem: the schema of a
    problem, where it is not the usual one, and problem_type its content type; differing: so by status.
    """

    summary: str
    tag: str
    answers: Mapping[int, Answer]
    description: str = ""
    body: Mapping[str, Schema] = field(default_factory=dict)
    optional_body: bool = False
    path: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    request: tuple[str, ...] = ()
    problems: Codes = field(default_factory=dict)
    relayed: frozenset[int] = frozenset()
    problem: Schema | None = None
    problem_type: str = CONTENT_TYPE
    differing: Mapping[int, Schema] = field(default_factory=dict)


Operations = Mapping[str, Operation]
"""By path: one route may be several operations, such as one per pipeline."""


def json_answer(description: str, schema: Schema, *headers: str) -> Answer:
    return Answer(description, {JSON: schema}, headers)


def merged(*parts: Codes) -> dict[int, tuple[str, ...]]:
    """All codes of all parts, each once, by status."""
    found: dict[int, dict[str, None]] = {}
    for part in parts:
        for status, codes in part.items():
            found.setdefault(status, {}).update(dict.fromkeys(codes))
    return {status: tuple(sorted(codes)) for status, codes in sorted(found.items())}
