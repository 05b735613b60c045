"""The checks at the door, before a request's handler. The first that fails answers:

    1  the address' limit                       429  rate_limited
    2  the head; the path and the method        400, 411, 414, 431; 404, 405
    3  authentication                           401  unauthenticated
    4  the limits of key, route and tenant      429  rate_limited
    5  authorization (`gateway.access`)         403  forbidden
    6  the breaker; how much is being done      503  circuit_open, overloaded

Then the handler, in this order: the body (408, 413, 415), what it counts for (events, tokens: 429),
validation (400, 422), what it needs and the queues (503, `queue_full` among them). Probes pass 1, 4 and 6,
routes for everybody 3 to 5. The tenant of a request is that of its credential, from wherever else one is
named.

A WebSocket passes 1, and 3 with its `connect` frame. A frame that publishes or asks is a request of a route,
of the principal of its socket, and passes 4 to 6.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from core.clock import Clock, SystemClock
from core.errors import InvalidInput, MillstreamError, QueueFull
from core.settings import Limits
from gateway.audit.watch import Watch
from gateway.circuits import Circuits, Passage
from gateway.exchange import Body, Request, Response
from gateway.keyring import Keyring
from gateway.limits import CallerLimits
from gateway.load import Load
from gateway.principals import OPEN, PROBE
from gateway.problems import status_of
from gateway.routing import Refusal, Route, Router


class Admission:
    """The door. Without `limits` nobody is limited; `patience_s` is that of `gateway.circuits`; `class_of`
    says how much harm the data of a request does in wrong hands, where that is known."""

    def __init__(
        self,
        router: Router,
        keyring: Keyring,
        *,
        limits: CallerLimits | None = None,
        settings: Limits | None = None,
        patience_s: float = 5.0,
        clock: Clock | None = None,
        audit: Watch | None = None,
        class_of: Callable[[Route, Mapping[str, str]], str | None] = lambda route, parameters: None,
    ) -> None:
        self._class_of = class_of
        given = settings or Limits()
        self._router = router
        self._keyring = keyring
        self._load = Load(most=given.requests, late_s=given.late_ms / 1e3)
        self._circuits = Circuits(clock or SystemClock(), patience_s=patience_s)
        self._limits = limits
        self.audit = audit  # told of what happens on sockets; the server tells it of HTTP

    async def find(self, request: Request, address: str, flaw: MillstreamError | None) -> Route:
        """Checks 1 and 2; sets the request's parameters. Raises OverLimit, `flaw`, NotFound,
        MethodNotAllowed."""
        try:
            route, request.parameters = self._router.find(request.method, request.path)
        except InvalidInput as unknown:
            await self._count_address(request, address)
            raise flaw or unknown from None
        if route.permission != PROBE:
            await self._count_address(request, address)
        if flaw is not None:
            raise flaw
        return route

    @property
    def routes(self) -> tuple[Route, ...]:
        return self._router.routes

    def refusal(self, path: str) -> Refusal | None:
        """How the routes of this path say what is wrong, where that is not by a problem document."""
        return self._router.refusal(path)

    async def admit(self, route: Route, request: Request, credential: str | None) -> "Visit":
        """Checks 3 to 6; sets the request's principal. Tell the visit of its end. Raises Denied, OverLimit,
        Forbidden, QueueFull, CircuitOpen."""
        if route.permission == PROBE:
            return Visit(None, None)
        if route.permission not in OPEN:
            request.principal = await self._keyring.check(credential)
            await self._permit(route, request)
        return self._enter(route, request)

    async def socket(self, address: str) -> None:
        """Check 1, for a WebSocket. Raises OverLimit."""
        if self._limits is not None:
            await self._limits.address(address)

    async def called(self, request: Request) -> Route:
        """Checks 4 and 5, for a frame of a socket whose principal the request has; its route. Raises
        NotFound, OverLimit, Forbidden."""
        route, request.parameters = self._router.find(request.method, request.path)
        try:
            await self._permit(route, request)
        except MillstreamError as error:
            self._turned_away(route, request, error)
            raise
        if self.audit is not None:
            self.audit.called(route, request)
        return route

    @asynccontextmanager
    async def visiting(self, route: Route, request: Request) -> AsyncIterator[None]:
        """Check 6, for what was `called`, while it is being handled. Raises QueueFull, CircuitOpen."""
        visit = self._enter(route, request)
        try:
            yield
        except Exception as error:
            visit.ended(Response(status_of(error), error=error))
            self._turned_away(route, request, error)
            raise
        except BaseException:
            visit.ended(None)
            raise
        visit.ended(Response(200))

    async def _count_address(self, request: Request, address: str) -> None:
        if self._limits is not None:
            request.note(await self._limits.address(address))

    async def _permit(self, route: Route, request: Request) -> None:
        if self._limits is not None:
            request.note(await self._limits.caller(request.principal, route))
        request.judge = await self._keyring.authority.permit(
            request.principal,
            route.permission,
            address=request.address,
            data_class=self._class_of(route, request.parameters),
        )

    def _turned_away(self, route: Route, request: Request, error: Exception) -> None:
        if self.audit is not None:
            self.audit.turned_away(error, request.principal, name=route.name, request_id=request.request_id)

    def _enter(self, route: Route, request: Request) -> "Visit":
        passage = self._circuits.enter(route, request) if route.guarded else None
        try:
            self._load.enter(waits=route.guarded)
        except QueueFull:
            if passage is not None:
                passage.ended(None)
            raise
        if not route.guarded:
            request.body = self._aside(request.body)
        return Visit(self._load, passage)

    def _aside(self, body: Body) -> Body:
        async def read(limit: int) -> bytes:
            with self._load.aside():
                return await body(limit)

        return read


class Visit:
    """A request that was let in."""

    def __init__(self, load: Load | None, passage: Passage | None) -> None:
        self._load = load
        self._passage = passage

    def ended(self, response: Response | None) -> None:
        """Its handler is done, with this answer; None where it was cancelled."""
        if self._load is not None:
            self._load.leave(waits=self._passage is not None)
        if self._passage is not None:
            self._passage.ended(response)
