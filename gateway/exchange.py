"""One request and its answer, free of the server that carried them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from core.errors import InvalidInput
from gateway.principals import ANONYMOUS, Principal
from gateway.standing import Standing

Body = Callable[[int], Awaitable[bytes]]
"""Reads the whole body; raises TooLarge above the number of bytes given, without reading on."""

Gone = Callable[[], Awaitable[None]]
"""Returns when the client has left; for a handler that has read the body. Await it in one place at a time."""


Judge = Callable[[object], None]
"""Raises Forbidden where a policy denies the record."""


async def never() -> None:
    """A client that stays."""
    await asyncio.Event().wait()


_encode = msgspec.json.Encoder().encode


class Request(msgspec.Struct, eq=False):
    """What came in. Header names are lower case; `parameters` are the values of the path's template. `target`
    is what an action of the control plane is about, once its handler has read that in the body; `address` the
    client's, as limits count it; `judge` is asked about each record that is read, where there is one.
    `standing` is the limit of the caller that is nearest to its end, as far as one was looked at."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body
    request_id: str
    query: str = ""
    parameters: dict[str, str] = {}
    principal: Principal = ANONYMOUS
    traceparent: str | None = None
    gone: Gone = never
    standing: Standing | None = None
    address: str = ""
    target: str = ""
    judge: Judge | None = None

    def note(self, standing: Standing) -> None:
        """A limit let the request through; the one that is nearest to its end is told with the answer."""
        if self.standing is None or standing.share < self.standing.share:
            self.standing = standing

    def option(self, name: str) -> str | None:
        """The last value of a query option; an option without a value is the empty string."""
        values = parse_qs(self.query, keep_blank_values=True).get(name)
        return values[-1] if values else None

    def count(self, name: str, *, default: int, most: int) -> int:
        """A query option that is a whole number, 1 to `most`; raises InvalidInput otherwise."""
        text = self.option(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or not 1 <= len(text) <= 9 or not 1 <= int(text) <= most:
            raise InvalidInput(f"option {name!r} is no number from 1 to {most}", code="invalid_option")
        return int(text)


class Response(msgspec.Struct, eq=False):
    """What goes out. The server adds Content-Length, X-Request-ID and the headers that every answer has.

    parts: a body that is sent as it comes, instead of `body`; closed when the client leaves. error: what the
    answer tells of, where it tells of one.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = []
    parts: AsyncGenerator[bytes, None] | None = None
    error: BaseException | None = None


def json_response(status: int, value: Any, headers: list[tuple[str, str]] | None = None) -> Response:
    """`value` as JSON: structs, dictionaries, lists, datetimes as RFC 3339."""
    return Response(status, _encode(value), headers=headers or [])
