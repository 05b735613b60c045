"""Pages of other origins (the CORS protocol of https://fetch.spec.whatwg.org): none but those of the setting
`gateway.origins`, and without it nobody is told anything.

A browser asks before it sends (`OPTIONS` with `Access-Control-Request-Method`), and hands an answer to the
page only if it names the page's origin. Credentials are in a header that the page has to have, never in a
cookie; so no origin is allowed to send those.
"""

from collections.abc import Collection, Mapping, Sequence

from gateway.exchange import Response

_READ = (
    "Age, Cache-Status, Idempotent-Replayed, Location, Preference-Applied, RateLimit, RateLimit-Policy,"
    " Retry-After, Server-Timing, X-Request-ID"
)
_ASKED_AGAIN_S = 600
_VARIES = ("vary", "Origin")


class CrossOrigin:
    """What pages of other origins are told."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    def preflight(self, headers: Mapping[str, str], methods: Sequence[str]) -> Response | None:
        """The answer to a browser that asks whether it may send what it names; None where it may not, or does
        not ask."""
        if headers.get("origin") not in self._origins or "access-control-request-method" not in headers:
            return None
        allowed = [
            ("access-control-allow-methods", ", ".join(methods)),
            ("access-control-allow-headers", headers.get("access-control-request-headers", "")),
            ("access-control-max-age", str(_ASKED_AGAIN_S)),
        ]
        return Response(204, headers=allowed)

    def headers(self, origin: str | None) -> list[tuple[str, str]]:
        """Those of every answer to a request of this origin."""
        if origin not in self._origins:
            return [_VARIES]
        return [
            _VARIES,
            ("access-control-allow-origin", origin or ""),
            ("access-control-expose-headers", _READ),
        ]
