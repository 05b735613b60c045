"""What the door and the server tell the trail of requests.

- A refusal (401, 403, 429), by the door or a handler, over HTTP or a socket: noted.
- An action of the control plane: an entry before it is begun, which has to be kept, else 503
  `audit_unavailable` and nothing is done; and one of how it ended. Both have the request's id, and the detail
  `stage`. Where the second is not kept in time the answer is given all the same, and it is written later.
- An allowed call of the data plane: counted.

A route that does more than read says on which plane it is (`Route.plane`), or the gateway does not start.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from core.clock import Clock
from core.errors import DeclarationError, MillstreamError, Unavailable
from gateway.addresses import PEER
from gateway.audit.counting import Counting
from gateway.audit.folding import ADDRESS
from gateway.exchange import Request, Response
from gateway.keys import parse
from gateway.principals import ANONYMOUS, PROBE, Principal
from gateway.problems import status_of
from gateway.routing import Route
from pipelines.audit.event import AuditEvent, AuditTrail, Outcome

REFUSED = frozenset({401, 403, 429})
STAGE, CLAIMED = "stage", "claimed"
SOCKET = "WEBSOCKET /api/v1/stream"
NO_ROUTE = "no route"

_TOLD = frozenset({"control", "told"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def require_planes(routes: Iterable[Route]) -> None:
    """Raises DeclarationError for a route that does more than read and does not say on which plane."""
    for route in routes:
        if route.plane is None and route.method not in _READING and route.permission != PROBE:
            raise DeclarationError(
                "a route that writes says on which plane it is",
                where=route.name,
                mend='give it plane="data", "control", or "told" where its handler tells the trail',
            )


class Tells(AuditTrail, Protocol):
    """The trail of a gateway (`gateway.audit.trail`)."""

    async def finished(self, event: AuditEvent) -> None:
        """`written` for the end of what was done already; raises nothing."""
        ...


class Watch:
    """For one event loop."""

    def __init__(self, trail: Tells, clock: Clock) -> None:
        self._trail = trail
        self._clock = clock
        self._counting = Counting(clock.now())

    async def acted(self, route: Route, request: Request) -> Response:
        """An action of the control plane: what the route's handler answers, or raises. Raises Unavailable,
        with nothing done, where the trail cannot keep it."""
        try:
            await self._trail.written(self._event(request, route.name, "allowed", stage="begun"))
        except Unavailable as error:
            self._trail.note(self._event(request, route.name, "denied", error.code, stage="not begun"))
            raise
        try:
            response = await route.handler(request)
        except asyncio.CancelledError:
            self._trail.note(self._event(request, route.name, "failed", "cancelled", stage="ended"))
            raise
        except Exception as error:
            outcome: Outcome = "denied" if status_of(error) in REFUSED else "failed"
            await self._trail.finished(
                self._event(request, route.name, outcome, _reason(error), stage="ended")
            )
            raise
        good = response.status < 400
        reason = "" if good else _reason(response.error) if response.error else f"status_{response.status}"
        await self._trail.finished(
            self._event(request, route.name, "allowed" if good else "failed", reason, stage="ended")
        )
        return response

    def answered(
        self,
        route: Route | None,
        request: Request,
        status: int,
        error: BaseException | None,
        *,
        admitted: bool,
    ) -> None:
        """After every request over HTTP. `admitted`: the door let it through to the handler."""
        if admitted and route is not None and route.plane in _TOLD:
            return
        if status in REFUSED:
            name = route.name if route is not None else NO_ROUTE
            claimed = _claimed(request.headers) if request.principal is ANONYMOUS else ""
            self._refused(
                name, request.principal, request.request_id, request.address, status, error, claimed
            )
        elif admitted and route is not None and request.principal is not ANONYMOUS:
            self._counting.called(request.principal, route.name)

    def called(self, route: Route, request: Request) -> None:
        """A frame of a socket was let in."""
        self._counting.called(request.principal, route.name)

    def turned_away(
        self,
        error: BaseException,
        principal: Principal = ANONYMOUS,
        *,
        name: str = SOCKET,
        request_id: str = "",
    ) -> None:
        """A socket, or a frame of one, met this; only refusals are noted."""
        status = status_of(error)
        if status in REFUSED:
            self._refused(name, principal, request_id, PEER.get(), status, error)

    def flush(self) -> None:
        """Tell what was counted since the last time."""
        for event in self._counting.flush(self._clock.now()):
            self._trail.note(event)

    def _event(
        self, request: Request, action: str, outcome: Outcome, reason: str = "", *, stage: str
    ) -> AuditEvent:
        principal = request.principal
        return AuditEvent(
            principal.tenant,
            principal.credential,
            action,
            outcome,
            self._clock.now(),
            target=request.target or " ".join(request.parameters.values()),
            reason=reason,
            request_id=request.request_id,
            detail={STAGE: stage},
        )

    def _refused(
        self,
        action: str,
        principal: Principal,
        request_id: str,
        address: str,
        status: int,
        error: BaseException | None,
        claimed: str = "",
    ) -> None:
        detail = {ADDRESS: address, CLAIMED: claimed}
        self._trail.note(
            AuditEvent(
                principal.tenant,
                principal.credential,
                action,
                "denied",
                self._clock.now(),
                reason=_reason(error) if error is not None else f"status_{status}",
                request_id=request_id,
                detail={name: text for name, text in detail.items() if text},
            )
        )


def _claimed(headers: Mapping[str, str]) -> str:
    """The public id in an API key that was not accepted: whose it was, or what somebody pretends."""
    parsed = parse(headers.get("authorization", "").partition(" ")[2] or headers.get("x-api-key", ""))
    return parsed[0] if parsed else ""


def _reason(error: BaseException) -> str:
    return error.code if isinstance(error, MillstreamError) else "internal_error"
