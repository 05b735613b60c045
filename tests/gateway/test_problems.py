"""Every error of the tree has a status, and a problem document that says what a client may know."""

import msgspec
import pytest

import gateway.problems
from core import errors
from core.errors import MillstreamError
from gateway.problems import Problem, problem_headers, problem_of

EXPECTED = {
    errors.Malformed("x"): 400,
    errors.InvalidInput("x"): 400,
    errors.Denied("x"): 401,
    gateway.problems.Forbidden("x"): 403,
    errors.UnknownName("pipeline", "frod", ["fraud"]): 404,
    gateway.problems.NotFound("x"): 404,
    gateway.problems.MethodNotAllowed("x", allowed=("GET", "PUT")): 405,
    errors.Conflict("x"): 409,
    gateway.problems.SlowBody("x"): 408,
    gateway.problems.LengthRequired("x"): 411,
    errors.TooLarge("x"): 413,
    gateway.problems.TargetTooLong("x"): 414,
    gateway.problems.HeadTooLarge("x"): 431,
    gateway.problems.UnsupportedMediaType("x"): 415,
    errors.Rejected("x", fields={"/a/b": "missing", "": "whole"}): 422,
    gateway.problems.InvalidBody("x", fields={"/a": "missing"}): 400,
    errors.Unavailable("x", retry_after_s=2.2): 503,
    errors.QueueFull("x"): 503,
    errors.RateLimited("x", retry_after_s=0.2): 429,
    errors.CircuitOpen("x"): 503,
    errors.ServerFailed("lost", "x"): 503,
    errors.ModelUnavailable("x"): 503,
    errors.DeadlineExceeded("x"): 504,
    errors.ModelFailed("secret"): 500,
    errors.StackError("secret"): 500,
    errors.DeclarationError("secret"): 500,
    errors.InternalError("secret"): 500,
}


@pytest.mark.parametrize("error", EXPECTED, ids=lambda error: type(error).__name__)
def test_status_and_document(error: MillstreamError) -> None:
    problem = problem_of(error, "r-1")
    assert problem.status == EXPECTED[error]
    document = msgspec.json.decode(msgspec.json.encode(problem))
    assert {"type", "title", "status", "detail", "code", "request_id", "retryable"} <= document.keys()
    assert document["request_id"] == "r-1"
    assert document["retryable"] is (problem.status in (408, 429, 503, 504))
    assert document["type"].endswith(document["code"])
    assert "secret" not in str(document)


def test_every_class_of_the_tree_is_covered() -> None:
    def below(kind: type[MillstreamError]) -> set[type[MillstreamError]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    here = {kind for kind in below(MillstreamError) if kind.__module__ in ("core.errors", "gateway.problems")}
    covered = {kind for error in EXPECTED for kind in type(error).__mro__}
    uncovered = {kind for kind in here - covered if problem_of(_make(kind), "r").status != 500}
    assert not uncovered


def _make(kind: type[MillstreamError]) -> MillstreamError:
    made = kind.__new__(kind)
    MillstreamError.__init__(made, "x")
    return made


def test_a_foreign_error_tells_nothing() -> None:
    problem = problem_of(ValueError("password=hunter2"), "r-2")
    assert (problem.status, problem.code) == (500, "internal_error")
    assert "hunter2" not in msgspec.json.encode(problem).decode()


def test_what_is_away_is_told_without_its_address() -> None:
    problem = problem_of(errors.Unavailable("the registry is away", where="http://10.0.0.7:8081"), "r")
    assert "10.0.0.7" not in msgspec.json.encode(problem).decode()
    told = problem_of(errors.InvalidInput("no such value", where="record Payment"), "r")
    assert told.detail == "no such value (record Payment)"


def test_pointers_come_through() -> None:
    problem = problem_of(errors.Rejected("x", fields={"/a": "missing", "/b/0": "wrong"}), "r")
    assert [(field.pointer, field.reason) for field in problem.errors] == [
        ("/a", "missing"),
        ("/b/0", "wrong"),
    ]


def test_the_nearest_name_is_suggested() -> None:
    assert "fraud" in (problem_of(errors.UnknownName("pipeline", "frod", ["fraud"]), "r").mend or "")


def test_headers() -> None:
    assert problem_headers(errors.Unavailable("x", retry_after_s=2.2)) == [("retry-after", "3")]
    assert problem_headers(gateway.problems.MethodNotAllowed("x", allowed=("GET", "PUT"))) == [
        ("allow", "GET, PUT")
    ]
    assert problem_headers(errors.Denied("x"))[0][0] == "www-authenticate"
    assert problem_headers(gateway.problems.Forbidden("x")) == []


def test_the_document_has_no_empty_members() -> None:
    plain = Problem(type="t", title="t", status=400, detail="d", code="c", request_id="r", retryable=False)
    assert set(msgspec.json.decode(msgspec.json.encode(plain))) == {
        "type", "title", "status", "detail", "code", "request_id", "retryable",
    }  # fmt: skip
