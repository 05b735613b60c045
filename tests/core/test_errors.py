"""Errors speak in three parts, unknown names suggest, and the drawn tree is the real one."""

import inspect
import re

import core.errors
from core.errors import MillstreamError, Unavailable, UnknownName


def test_an_error_says_what_where_and_how_to_mend() -> None:
    text = str(Unavailable("Kafka is away", where="127.0.0.1:9092", mend="start it"))
    assert text.splitlines() == ["Kafka is away", "  where: 127.0.0.1:9092", "  mend: start it"]


def test_an_unknown_name_suggests_the_nearest() -> None:
    error = UnknownName("field", "amuont", ["amount", "card"])
    assert (error.nearest, error.code, error.retryable) == ("amount", "unknown_field", False)


def test_an_unknown_name_far_from_all_lists_what_is_known() -> None:
    error = UnknownName("view", "zzz", ["card_activity"])
    assert error.nearest is None
    assert error.mend == "known: card_activity"


def test_the_tree_in_the_documentation_names_every_error_under_its_parent() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (core.errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            drawn[match[2]] = above[depth - 1] if depth else "Exception"
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(core.errors).items()
        if inspect.isclass(kind) and issubclass(kind, MillstreamError)
    }
    assert drawn == real
