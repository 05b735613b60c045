"""`GET /openapi.json`, `/asyncapi.json` and `/docs`: written once when the gateway starts, for everybody.

documents = Documents()
router = Router((*routes, *documents.routes()))
documents.write(router.routes, served)
"""

from collections.abc import Iterable

import msgspec

from core.errors import Unavailable
from gateway.documents.asyncapi import asyncapi
from gateway.documents.openapi import openapi
from gateway.documents.operations import JSON
from gateway.documents.page import POLICY, page
from gateway.documents.served import Served
from gateway.documents.surroundings import ASYNCAPI, HTML, OPENAPI, PAGE
from gateway.exchange import Request, Response
from gateway.principals import PUBLIC
from gateway.routing import Route

_HEADERS = [("content-security-policy", POLICY)]


class Documents:
    """The routes, and what they answer with once it is written."""

    def __init__(self) -> None:
        self._openapi = self._asyncapi = self._page = b""

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", OPENAPI, PUBLIC, self._get_openapi),
            Route("GET", ASYNCAPI, PUBLIC, self._get_asyncapi),
            Route("GET", PAGE, PUBLIC, self._get_page),
        )

    def write(self, routes: Iterable[Route], served: Served) -> None:
        """Of these routes, their own included. Raises DeclarationError for one that no document describes."""
        http, pushed = openapi(routes, served), asyncapi(served)
        self._openapi, self._asyncapi = msgspec.json.encode(http), msgspec.json.encode(pushed)
        self._page = page(http, pushed).encode()

    async def _get_openapi(self, request: Request) -> Response:
        return Response(200, _written(self._openapi), JSON)

    async def _get_asyncapi(self, request: Request) -> Response:
        return Response(200, _written(self._asyncapi), JSON)

    async def _get_page(self, request: Request) -> Response:
        return Response(200, _written(self._page), HTML, list(_HEADERS))


def _written(document: bytes) -> bytes:
    if not document:
        raise Unavailable("the documents are not written yet")
    return document
