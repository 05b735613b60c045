"""A strict reader of the part of PromQL that the dashboard speaks, and what a query is about.

Whatever it does not know is an error, so that a query which it takes is one that Prometheus takes too
(https://prometheus.io/docs/prometheus/latest/querying/basics/). Grafana's variables are values: in quotes as
they are, and `$__rate_interval` as a range.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKEN = re.compile(
    r"""\s*(?:(?P<range>\[(?:\d+[smhdw]|\$__rate_interval|\$__range)\])
    |(?P<number>\d+(?:\.\d+)?)
    |(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)
    |(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^(){},=<>]))""",
    re.VERBOSE,
)
AGGREGATIONS = frozenset({"sum", "avg", "min", "max", "count"})
#: Function: what it takes, in order. r a range, v a vector, n a number.
FUNCTIONS = {"rate": "r", "increase": "r", "histogram_quantile": "nv", "clamp_min": "vn", "abs": "v"}
OPERATORS = (("==", "!=", ">=", "<=", ">", "<"), ("+", "-"), ("*", "/", "%"))


class Wrong(Exception):
    """No query, or one that makes no sense."""


@dataclass(frozen=True)
class Selector:
    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    ranged: bool


@dataclass(frozen=True)
class Number:
    value: float


@dataclass(frozen=True)
class Call:
    function: str
    arguments: tuple["Node", ...]


@dataclass(frozen=True)
class Aggregation:
    """Without `by`: None."""

    function: str
    by: tuple[str, ...] | None
    of: "Node"


@dataclass(frozen=True)
class Binary:
    sign: str
    left: "Node"
    right: "Node"


Node = Selector | Number | Call | Aggregation | Binary


def parse(query: str) -> Node:
    """Raises Wrong."""
    reader = _Reader(query)
    found = reader.expression(0)
    if reader.kind is not None:
        raise Wrong(f"{reader.value!r} at the end of {query!r}")
    return found


def selectors(node: Node) -> Iterator[Selector]:
    if isinstance(node, Selector):
        yield node
    elif isinstance(node, Call):
        for argument in node.arguments:
            yield from selectors(argument)
    elif isinstance(node, Aggregation):
        yield from selectors(node.of)
    elif isinstance(node, Binary):
        yield from selectors(node.left)
        yield from selectors(node.right)


class _Reader:
    def __init__(self, query: str) -> None:
        self._query = query
        self._at = 0
        self.kind: str | None = None
        self.value = ""
        self._next()

    def expression(self, level: int) -> Node:
        if level == len(OPERATORS):
            return self._operand()
        found = self.expression(level + 1)
        while self.kind == "sign" and self.value in OPERATORS[level]:
            sign = self._taken()
            found = Binary(sign, found, self.expression(level + 1))
        return found

    def _operand(self) -> Node:
        if self.kind == "number":
            return Number(float(self._taken()))
        if self._is("("):
            self._want("(")
            found = self.expression(0)
            self._want(")")
            return found
        if self.kind != "word":
            raise Wrong(f"{self.value!r} in {self._query!r}")
        name = self._taken()
        if name in AGGREGATIONS:
            return self._aggregation(name)
        if self._is("("):
            return self._call(name)
        return self._selector(name)

    def _aggregation(self, name: str) -> Node:
        by = None
        if self.kind == "word" and self.value == "by":
            self._taken()
            by = tuple(self._list("word"))
        self._want("(")
        of = self.expression(0)
        self._want(")")
        return Aggregation(name, by, of)

    def _call(self, name: str) -> Node:
        wanted = FUNCTIONS.get(name)
        if wanted is None:
            raise Wrong(f"no function {name!r}")
        self._want("(")
        arguments = [self.expression(0)]
        while self._is(","):
            self._want(",")
            arguments.append(self.expression(0))
        self._want(")")
        if "".join(_kind(one) for one in arguments) != wanted:
            raise Wrong(f"{name} takes {wanted}, in {self._query!r}")
        return Call(name, tuple(arguments))

    def _selector(self, metric: str) -> Node:
        matchers: list[tuple[str, str, str]] = []
        if self._is("{"):
            self._want("{")
            while not self._is("}"):
                label = self._want(None, "word")
                sign = self._taken()
                if sign not in ("=", "!=", "=~", "!~"):
                    raise Wrong(f"{sign!r} after the label {label!r}")
                matchers.append((label, sign, self._want(None, "text")[1:-1]))
                if not self._is("}"):
                    self._want(",")
            self._want("}")
        ranged = self.kind == "range"
        if ranged:
            self._taken()
        return Selector(metric, tuple(matchers), ranged)

    def _list(self, kind: str) -> Iterator[str]:
        self._want("(")
        yield self._want(None, kind)
        while self._is(","):
            self._want(",")
            yield self._want(None, kind)
        self._want(")")

    def _is(self, sign: str) -> bool:
        return self.kind == "sign" and self.value == sign

    def _want(self, value: str | None, kind: str = "sign") -> str:
        if self.kind != kind or value not in (None, self.value):
            raise Wrong(f"{value or kind} wanted, {self.value!r} is there: {self._query!r}")
        return self._taken()

    def _taken(self) -> str:
        value = self.value
        self._next()
        return value

    def _next(self) -> None:
        found = TOKEN.match(self._query, self._at)
        if found is None:
            if self._query[self._at :].strip():
                raise Wrong(f"{self._query[self._at :]!r} is no PromQL")
            self.kind, self.value = None, ""
            return
        self._at, self.kind, self.value = found.end(), found.lastgroup, str(found.group(found.lastgroup or 0))


def _kind(node: Node) -> str:
    if isinstance(node, Number):
        return "n"
    return "r" if isinstance(node, Selector) and node.ranged else "v"
