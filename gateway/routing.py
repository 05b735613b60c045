"""The router: declared routes, each with the permission it asks for.

    router = Router((Route("GET", "/api/v1/transactions/{id}", TRANSACTIONS_READ, read_transaction), ...))

A route that names no permission, an unknown one, or one that another route hides does not start.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from core.errors import DeclarationError
from gateway.exchange import Request, Response
from gateway.principals import OPEN, OWN_SESSIONS, SCOPES
from gateway.problems import MethodNotAllowed, NotFound

Handler = Callable[[Request], Awaitable[Response]]
Refusal = Callable[[BaseException, str], Response]
Plane = Literal["data", "control", "told"]
MAX_SEGMENT = 512
_PERMISSIONS = OPEN | SCOPES | {OWN_SESSIONS}


@dataclass(frozen=True)
class Route:
    """One method on one path template (`{name}` matches one segment) and the scope that it takes.

    guarded: it waits for an answer of somebody else, so a breaker stands before it (`gateway.circuits`).
    refusal: an error and the request's id as an answer, where that is not a problem document; the same for
    all methods of a path. Where all routes under one first segment have the same, its unknown paths do too.
    plane: what the audit trail is told of it (`gateway.audit.watch`); needed where more than reading is done.
    at_once: a probe whose handler waits for nothing; it is answered before what waits for its turn.
    """

    method: str
    template: str
    permission: str
    handler: Handler
    guarded: bool = False
    refusal: Refusal | None = None
    plane: Plane | None = None
    at_once: bool = False

    @cached_property
    def name(self) -> str:
        return f"{self.method} {self.template}"


class Router:
    """Finds the route of a request, one dictionary look-up per segment of its path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._root = _Node()
        self._refusals: dict[str, Refusal | None] = {}
        for route in self.routes:
            self._add(route)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and the values of its template. Raises NotFound, MethodNotAllowed."""
        node, parameters = self._walk(path)
        route = node.routes.get(method)
        if route is None and method == "HEAD":
            route = node.routes.get("GET")
        if route is None:
            if node.routes:
                allowed = {*node.routes, "HEAD"} if "GET" in node.routes else node.routes
                raise MethodNotAllowed(f"method {method[:16]!r} on this path", allowed=tuple(sorted(allowed)))
            raise NotFound("no such path")
        return route, parameters

    def refusal(self, path: str) -> Refusal | None:
        """How the routes of this path say what is wrong, where that is not by a problem document."""
        try:
            node, _ = self._walk(path)
        except NotFound:
            return self._refusals.get(path.split("/", 2)[1] if "/" in path else "")
        return next((route.refusal for route in node.routes.values()), None)

    def _walk(self, path: str) -> tuple["_Node", dict[str, str]]:
        """Where a path ends, and the values of its template. Raises NotFound."""
        node: _Node = self._root
        parameters: dict[str, str] = {}
        for segment in path.split("/")[1:]:
            below = node.fixed.get(segment)
            if below is None:
                if node.variable is None or not segment or len(segment) > MAX_SEGMENT:
                    raise NotFound("no such path")
                parameters[node.name] = segment
                below = node.variable
            node = below
        return node, parameters

    def _add(self, route: Route) -> None:
        where = route.name
        if route.permission not in _PERMISSIONS:
            raise DeclarationError(
                f"route without a declared permission: {route.permission!r}",
                where=where,
                mend=f"name one of {', '.join(sorted(_PERMISSIONS))}",
            )
        if not route.template.startswith("/"):
            raise DeclarationError("a path template starts with /", where=where)
        first = route.template.split("/")[1]
        same = self._refusals.setdefault(first, route.refusal) is route.refusal
        self._refusals[first] = route.refusal if same else None
        node = self._root
        for segment in route.template.split("/")[1:]:
            if segment.startswith("{") and segment.endswith("}"):
                name = segment[1:-1]
                if node.variable is None:
                    node.variable, node.name = _Node(), name
                elif node.name != name:
                    raise DeclarationError(
                        f"{{{name}}} stands where another route has {{{node.name}}}", where=where
                    )
                node = node.variable
            else:
                node = node.fixed.setdefault(segment, _Node())
        if route.method in node.routes:
            raise DeclarationError("the route is declared twice", where=where)
        node.routes[route.method] = route


class _Node:
    __slots__ = ("fixed", "name", "routes", "variable")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.variable: _Node | None = None
        self.name = ""
        self.routes: dict[str, Route] = {}
