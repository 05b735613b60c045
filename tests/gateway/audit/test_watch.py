"""What a gateway tells the trail, of requests over HTTP: refusals, actions of the control plane, calls."""

from dataclasses import dataclass, field

import httpx
import pytest

from core.clock import ManualClock
from core.errors import Conflict, DeclarationError, Unavailable
from gateway.admission import Admission
from gateway.audit.event import AuditEvent
from gateway.audit.watch import Watch, require_planes
from gateway.exchange import Request, Response
from gateway.health import Health
from gateway.keyring import Keyring
from gateway.keys import Key, mint
from gateway.limits import CallerLimits, NamedLimit
from gateway.principals import ASK, FEATURES_READ, MODELS_WRITE
from gateway.problems import Forbidden
from gateway.routing import Route, Router
from gateway.server import Application
from gateway.standing import Policy
from operators.limits import InMemoryLimiter, Limit
from tests.gateway.in_memory import InMemoryTransport
from tests.gateway.samples import NOW, KeysInMemory

MAY, MAY_NOT = mint(), mint()
ID = "req-17"


class Trail:
    """Collects; `away` keeps nothing."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.away = False

    def note(self, event: AuditEvent) -> None:
        self.events.append(event)

    async def written(self, event: AuditEvent) -> None:
        if self.away:
            raise Unavailable("it cannot be kept", code="audit_unavailable")
        self.events.append(event)

    async def finished(self, event: AuditEvent) -> None:
        self.events.append(event)


@dataclass
class World:
    """A gateway in memory whose trail is a list."""

    burst: int = 1_000
    fails: Exception | None = None
    status: int = 200
    trail: Trail = field(default_factory=Trail)
    done: int = 0

    def __post_init__(self) -> None:
        clock = ManualClock(NOW)
        scopes = frozenset({ASK, MODELS_WRITE})
        keys = KeysInMemory(
            Key(MAY[1], MAY[2], "acme", "", scopes, NOW),
            Key(MAY_NOT[1], MAY_NOT[2], "acme", "", frozenset({FEATURES_READ}), NOW),
        )
        routes = (
            Route("POST", "/ask/{pipeline}", ASK, self.act, plane="data"),
            Route("POST", "/models/{id}/swap", MODELS_WRITE, self.act, plane="control"),
            *Health().routes(),
        )
        limit = Limit(0.01, self.burst)
        named = {n: NamedLimit(Policy(n, limit), InMemoryLimiter(limit, clock=clock)) for n in "akt"}
        of_routes = {route.name: named["k"] for route in routes}
        self.watch = Watch(self.trail, clock)
        admission = Admission(
            Router(routes),
            Keyring(keys, clock=clock),
            limits=CallerLimits(
                NamedLimit(Policy("address", Limit(1, 1000)), InMemoryLimiter(Limit(1, 1000), clock=clock)),
                named["a"],
                named["t"],
                of_routes,
            ),
            clock=clock,
            audit=self.watch,
        )
        self.application = Application(admission, audit=self.watch)

    async def act(self, request: Request) -> Response:
        self.done += 1
        request.target = "fraud:3"
        if self.fails is not None:
            raise self.fails
        return Response(self.status)

    async def post(self, path: str, key: tuple[str, str, bytes] | None = MAY) -> httpx.Response:
        transport = InMemoryTransport(self.application, peer="192.0.2.7")
        headers = {"x-request-id": ID} | ({"authorization": f"Bearer {key[0]}"} if key else {})
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.post(path, headers=headers)

    @property
    def told(self) -> list[tuple[str, str, str, str, str]]:
        """(actor, action, outcome, reason, stage) of every event."""
        return [
            (e.actor, e.action, e.outcome, e.reason, e.detail.get("stage", "")) for e in self.trail.events
        ]


ASKING, SWAP = "POST /ask/{pipeline}", "POST /models/{id}/swap"


@pytest.mark.parametrize("path", ["/ask/fraud", "/models/fraud/swap"])
async def test_refusals_are_told_with_who_what_why_and_the_request(path: str) -> None:
    world = World()
    action = ASKING if "ask" in path else SWAP
    assert (await world.post(path, None)).status_code == 401
    unknown = mint()
    assert (await world.post(path, unknown)).status_code == 401
    assert (await world.post(path, MAY_NOT)).status_code == 403
    assert world.told == [
        ("", action, "denied", "unauthenticated", ""),
        ("", action, "denied", "unauthenticated", ""),
        (MAY_NOT[1], action, "denied", "forbidden", ""),
    ]
    assert [event.detail.get("claimed") for event in world.trail.events] == [None, unknown[1], None]
    assert unknown[0].split("_")[2] not in repr(world.trail.events)
    event = world.trail.events[-1]
    assert (event.tenant, event.request_id, event.at) == ("acme", ID, NOW)
    assert event.detail["address"] == "192.0.2.7"
    assert world.done == 0


async def test_a_limit_that_refuses_is_told() -> None:
    world = World(burst=1)
    assert [(await world.post("/ask/fraud")).status_code for _ in range(2)] == [200, 429]
    assert world.told == [(MAY[1], ASKING, "denied", "rate_limited", "")]


async def test_a_refusal_of_the_handler_is_told_once() -> None:
    world = World(fails=Forbidden("not yours"))
    assert (await world.post("/ask/fraud")).status_code == 403
    assert (await world.post("/models/fraud/swap")).status_code == 403
    assert world.told == [
        (MAY[1], ASKING, "denied", "forbidden", ""),
        (MAY[1], SWAP, "allowed", "", "begun"),
        (MAY[1], SWAP, "denied", "forbidden", "ended"),
    ]


async def test_calls_of_the_data_plane_are_counted_and_not_told_singly() -> None:
    world = World()
    for _ in range(3):
        await world.post("/ask/fraud")
    world.fails = Conflict("not so")
    await world.post("/ask/fraud")
    assert world.told == []
    world.watch.flush()
    (event,) = world.trail.events
    assert (event.tenant, event.actor, event.action, event.detail[ASKING]) == ("acme", MAY[1], "calls", "4")


async def test_an_action_of_the_control_plane_is_told_before_and_after() -> None:
    world = World()
    assert (await world.post("/models/fraud/swap")).status_code == 200
    assert world.told == [(MAY[1], SWAP, "allowed", "", "begun"), (MAY[1], SWAP, "allowed", "", "ended")]
    begun, ended = world.trail.events
    assert (begun.target, ended.target) == ("fraud", "fraud:3")
    assert begun.request_id == ended.request_id == ID
    world.watch.flush()
    assert len(world.trail.events) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"fails": Conflict("not so", code="stale_revision")}, "stale_revision"),
     ({"fails": RuntimeError("a bug")}, "internal_error"),
     ({"status": 500}, "status_500")],
)  # fmt: skip
async def test_one_that_fails_is_told_with_the_reason(changes: dict[str, object], reason: str) -> None:
    world = World(**changes)  # type: ignore[arg-type]
    await world.post("/models/fraud/swap")
    assert world.told[-1] == (MAY[1], SWAP, "failed", reason, "ended")


async def test_what_cannot_be_kept_is_not_done_but_the_data_plane_goes_on() -> None:
    world = World()
    world.trail.away = True
    answer = await world.post("/models/fraud/swap")
    assert (answer.status_code, answer.json()["code"]) == (503, "audit_unavailable")
    assert world.done == 0
    assert world.told == [(MAY[1], SWAP, "denied", "audit_unavailable", "not begun")]
    assert (await world.post("/ask/fraud")).status_code == 200


def test_a_route_that_writes_and_says_no_plane_does_not_start() -> None:
    async def handler(request: Request) -> Response:
        return Response(200)

    require_planes([Route("GET", "/x", ASK, handler), Route("POST", "/y", ASK, handler, plane="told")])
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        with pytest.raises(DeclarationError, match="on which plane"):
            require_planes([Route(method, "/x", ASK, handler)])
