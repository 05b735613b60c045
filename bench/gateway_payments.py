"""Payments as clients of the benchmark send them, and how they go over the wire."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bench.http_load import MARK
from bench.http_peers import request
from jobs.sources.generated import LABEL, generate

EVENTS = "/api/v1/pipelines/fraud/events"
INFER = "/api/v1/pipelines/fraud/infer"


def bodies(count: int, *, ids: Sequence[str] | None = None) -> list[bytes]:
    """Generated payments of now, each with 120 columns as far as they are known; with these ids, or with one
    that the load generator makes for each request."""
    rows = generate(max(count, 100), seed=11).drop_columns([LABEL, "tenant", "id"]).to_pylist()
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return [
        _body(row | {"id": ids[number] if ids else MARK.decode(), "occurred_at": now})
        for number, row in enumerate(rows[:count])
    ]


def posts(port: int, path: str, key: str, sent: Sequence[bytes], *more: str) -> list[bytes]:
    """The bodies as requests to a server."""
    return [request(port, path, body, (f"Authorization: Bearer {key}", *more)) for body in sent]


def _body(row: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in row.items() if value is not None}).encode()
