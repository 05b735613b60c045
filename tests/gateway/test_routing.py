"""The router: what starts, what does not, and which route a path finds."""

import pytest

from core.errors import DeclarationError
from gateway.exchange import Request, Response
from gateway.principals import EVENTS_WRITE, PUBLIC, TRANSACTIONS_READ
from gateway.problems import MethodNotAllowed, NotFound
from gateway.routing import Route, Router


async def handler(request: Request) -> Response:
    return Response(200, request.path.encode())


def route(method: str, template: str, permission: str = PUBLIC) -> Route:
    return Route(method, template, permission, handler)


@pytest.mark.parametrize("permission", ["", "everything", "events:Write", "public "])
def test_a_route_without_a_declared_permission_does_not_start(permission: str) -> None:
    with pytest.raises(DeclarationError, match="permission"):
        Router([route("GET", "/a", permission)])


@pytest.mark.parametrize(
    "routes",
    [
        [route("GET", "/a/{id}"), route("GET", "/a/{id}")],
        [route("GET", "/a/{id}"), route("GET", "/a/{name}/b")],
        [route("GET", "a")],
    ],
)
def test_routes_that_clash_do_not_start(routes: list[Route]) -> None:
    with pytest.raises(DeclarationError):
        Router(routes)


ROUTER = Router(
    [
        route("GET", "/livez"),
        route("POST", "/pipelines/{pipeline}/events", EVENTS_WRITE),
        route("GET", "/features/{view}/{entity}", TRANSACTIONS_READ),
        route("GET", "/features/all/names", TRANSACTIONS_READ),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "template", "parameters"),
    [
        ("GET", "/livez", "/livez", {}),
        ("HEAD", "/livez", "/livez", {}),
        ("POST", "/pipelines/fraud/events", "/pipelines/{pipeline}/events", {"pipeline": "fraud"}),
        ("GET", "/features/v/a b%", "/features/{view}/{entity}", {"view": "v", "entity": "a b%"}),
        ("GET", "/features/all/names", "/features/all/names", {}),
    ],
)
def test_finds(method: str, path: str, template: str, parameters: dict[str, str]) -> None:
    found, values = ROUTER.find(method, path)
    assert (found.template, values) == (template, parameters)


@pytest.mark.parametrize(
    "path", ["", "/", "/livez/", "//livez", "/pipelines//events", "/features/v", "/features/v/" + "x" * 513]
)
def test_finds_nothing(path: str) -> None:
    with pytest.raises(NotFound):
        ROUTER.find("GET", path)


def test_another_method_is_told_what_is_allowed() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        ROUTER.find("DELETE", "/livez")
    assert caught.value.allowed == ("GET", "HEAD")
