"""Every code of a problem that the gateway's sources name is explained, and nothing that they do not."""

import ast
from collections.abc import Iterator
from pathlib import Path

from core.errors import MillstreamError
from gateway.documents.problems import CODES
from tests.gateway.documents.made import openapi_document

ROOT = Path(__file__).resolve().parents[3]
PLACES = (
    "gateway", "features/online", "jobs/worker/answering", "operators/generate.py",
    "operators/generate_calls.py", "operators/generate_request.py", "operators/limits.py",
    "operators/server_pool.py", "pipelines/outbox.py", "pipelines/reviews.py", "pipelines/serving",
    "pipelines/training/reading.py", "schemas/registry.py",
)  # fmt: skip
UNKNOWN = (
    "channel", "feature", "model", "model_version", "pipeline", "service", "subscription", "training", "view"
)  # fmt: skip
WITHIN = {
    # what never leaves the process, or only as something else
    "acceptance_unavailable", "cache_unavailable", "deliveries_unavailable", "limiter_unavailable",
    # of clients, at their own side
    "second_factor", "superseded",
    # of declarations, which stop the start
    "invalid_declaration", "incompatible_schema", "stack_error",
    # of models at work: told as `model_unavailable`, or as `internal_error`
    "model_error", "model_refused",
}  # fmt: skip


def _files() -> Iterator[Path]:
    for place in PLACES:
        path = ROOT / place
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def _named() -> set[str]:
    """The codes that are given to errors by name, and those that their classes have."""
    found = {kind.default_code for kind in _below(MillstreamError)} | {MillstreamError.default_code}
    for path in _files():
        if path.parent.name == "documents":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.keyword) and node.arg == "code"
            if named or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "code"):
                value = node.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
                    found.add(value.value)
    return found


def _below(kind: type[MillstreamError]) -> Iterator[type[MillstreamError]]:
    for below in kind.__subclasses__():
        if below.__module__.startswith(("core.", "gateway.")):
            yield below
        yield from _below(below)


def test_every_code_is_explained() -> None:
    unexplained = {code for code in _named() if not code.startswith("server_")} - CODES.keys() - WITHIN
    assert sorted(unexplained) == [], "add them to CODES in gateway/documents/problems.py"


def test_no_code_is_explained_that_there_is_not() -> None:
    made = {f"unknown_{kind}" for kind in UNKNOWN}
    made |= {f"{kind}_refused" for kind in ("load", "remove", "rollback", "swap")}
    made |= {"too_many_entities", "too_many_features", "swap_failed", "swap_unsafe"}
    assert sorted(CODES.keys() - _named() - made) == []


def test_every_code_of_an_operation_is_explained() -> None:
    for path, methods in openapi_document()["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                for content in answer.get("content", {}).values():
                    parts = content["schema"].get("allOf", [{}])
                    code = parts[-1].get("properties", {}).get("code", {})
                    for one in code.get("enum", ()):
                        assert one in CODES, (path, status)
