"""What a worker raised is, in the gateway, the same to a client."""

import msgspec
import pytest

from core import errors
from gateway.problems import problem_of
from pipelines.asking.failures import error_of, failure_of
from schemas.catalog.asking import Failure

RAISED = [
    errors.Rejected("two fields are wrong", fields={"/a": "missing", "/b": "no number"}, where="record X"),
    errors.Malformed("no JSON", mend="send JSON"),
    errors.TooLarge("too large"),
    errors.UnknownName("model", "frad", ["fraud"]),
    errors.Conflict("another body"),
    errors.QueueFull("full", retry_after_s=7),
    errors.DeadlineExceeded("late"),
    errors.Unavailable("away", code="kafka_unavailable", retry_after_s=3),
    errors.ModelUnavailable("broke", where="version 2"),
    errors.ModelFailed("not finite"),
    errors.InternalError("a bug"),
    RuntimeError("a secret"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_the_problem_is_the_same_after_the_way(error: Exception) -> None:
    travelled = msgspec.json.decode(msgspec.json.encode(failure_of(error)), type=Failure)
    again = error_of(travelled)
    assert problem_of(again, "r") == problem_of(error, "r")
    if isinstance(error, errors.MillstreamError):
        assert type(again) is type(error)
        assert again.retryable == error.retryable


def test_a_bug_says_nothing_of_itself() -> None:
    assert "secret" not in str(msgspec.to_builtins(failure_of(RuntimeError("a secret"))))


def test_a_kind_that_is_not_known_here_comes_back_as_its_nearest_base() -> None:
    class Open(errors.Unavailable):
        default_code = "open"

    again = error_of(failure_of(Open("x", retry_after_s=9)))
    assert (type(again), again.code) == (errors.Unavailable, "open")
    assert type(error_of(Failure(["Nonsense"], "x", "y"))) is errors.InternalError
