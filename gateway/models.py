"""Models by HTTP: what serves, whether a swap is safe, and the commands that change it. Loads no model.

Everything read comes from the routing and the workers' states on Kafka; everything asked for is a command to
the controller, whose reply is awaited. A version is named `model:version`.

    GET    /api/v1/models                     every model: its routing and its versions
    GET    /api/v1/models/{id}                one version, or all of a model
    GET    /api/v1/models/{id}/swap/safety    five checks
    POST   /api/v1/models                     {"id": "fraud:3"}: load it in the background, 202
    POST   /api/v1/models/swap                {"target": "fraud:3"}: 200, 400 with the checks, 500
    POST   /api/v1/models/rollback            {"model": "fraud"}: to the version before
    DELETE /api/v1/models/{id}                a deprecated or failed version
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec

from core.clock import Clock
from core.errors import Conflict, DeadlineExceeded, InvalidInput, Malformed, UnknownName
from core.ids import new_id
from gateway import strict_json
from gateway.bodies import JSON, content_type
from gateway.exchange import Request, Response, json_response
from gateway.problems import CONTENT_TYPE, Problem, UnsupportedMediaType
from pipelines.outbox import RecordOutbox
from pipelines.serving.fleet import Fleet, VersionView, model_id, split_id
from pipelines.serving.follower import Follower
from pipelines.serving.safety import SafetyReport, failed_checks, swap_safety
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.models import COMMANDS, Check, CommandKind, ModelCommand, ModelReply, Operation, Route

B = TypeVar("B", bound=msgspec.Struct)
PATH = "/api/v1/models"
_MAX_BODY = 16 * 1024
_MAX_NAME = 128


Revision = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class LoadBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    expected_revision: Revision | None = None


class SwapBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: str
    expected_revision: Revision | None = None


class RollbackBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    expected_revision: Revision | None = None


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """One model: what is wanted of it, and its versions as the living workers see them."""

    model: str
    revision: int
    active: str | None
    rollback_target: str | None
    routes: list[Route]
    operation: Operation | None
    experiment: str | None
    instances: int
    decided_at: datetime | None
    reason: str
    versions: list[VersionView]


class SwapProblem(Problem, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document with the safety report: every check, and the names of those that failed."""

    active: str | None = None
    target: str | None = None
    failed: list[str] = []
    checks: list[Check] = []


class ModelsEndpoint:
    """The handlers. Commands wait at most `answer_s` for their reply."""

    def __init__(
        self, follower: Follower, outbox: RecordOutbox, clock: Clock, *, answer_s: float, min_health: float
    ) -> None:
        self._follower = follower
        self._outbox = outbox
        self._clock = clock
        self._answer_s = answer_s
        self._min_health = min_health

    async def list(self, request: Request) -> Response:
        del request
        fleets = self._follower.fleets()
        return json_response(200, {"models": [_view(model, fleet) for model, fleet in fleets.items()]})

    async def get(self, request: Request) -> Response:
        model, version, fleet = self._named(request.parameters["id"])
        if not version:
            return json_response(200, _view(model, fleet))
        return json_response(200, _version(model, version, fleet))

    async def safety(self, request: Request) -> Response:
        model, version, fleet = self._named(request.parameters["id"])
        _require_version(request.parameters["id"], version)
        return json_response(200, self._report(model, version, fleet))

    async def load(self, request: Request) -> Response:
        body = await _read(request, LoadBody)
        model, version, _ = self._named(body.id)
        _require_version(body.id, version)
        request.target = body.id
        reply = await self._answered("load", model, version, body.expected_revision, request)
        if reply.outcome != "accepted":
            raise _error(reply)
        location = f"{PATH}/{model_id(model, version)}"
        view = self._follower.fleets()[model].view(version)
        told = {
            "id": model_id(model, version),
            "state": view.state if view else "loading",
            "progress": view.progress if view else 0,
            "stage": view.stage if view else "waiting",
            "revision": reply.revision,
        }
        return json_response(202, told, [("location", location)])

    async def swap(self, request: Request) -> Response:
        body = await _read(request, SwapBody)
        model, version, _ = self._named(body.target)
        _require_version(body.target, version)
        request.target = body.target
        reply = await self._answered("swap", model, version, body.expected_revision, request)
        return self._changed(model, reply, request)

    async def rollback(self, request: Request) -> Response:
        body = await _read(request, RollbackBody)
        model, version, _ = self._named(body.model)
        if version:
            raise InvalidInput("a rollback names a model, not a version", code="invalid_request")
        request.target = model
        reply = await self._answered("rollback", model, None, body.expected_revision, request)
        return self._changed(model, reply, request)

    async def remove(self, request: Request) -> Response:
        model, version, fleet = self._named(request.parameters["id"])
        _require_version(request.parameters["id"], version)
        _version(model, version, fleet)
        reply = await self._answered("remove", model, version, None, request)
        if reply.outcome == "refused":
            raise Conflict(reply.reason, code="model_in_use")
        if reply.outcome != "done":
            raise _error(reply)
        return Response(204)

    def _named(self, id: str) -> tuple[str, str, Fleet]:
        """Raises UnknownName with the nearest model."""
        model, version = split_id(id)
        fleets = self._follower.fleets()
        fleet = fleets.get(model)
        if fleet is None:
            raise UnknownName("model", model[:_MAX_NAME], fleets)
        return model, version, fleet

    def _report(self, model: str, version: str, fleet: Fleet) -> SafetyReport:
        return swap_safety(fleet, model, version, min_health=self._min_health)

    async def _answered(
        self, kind: CommandKind, model: str, version: str | None, revision: int | None, request: Request
    ) -> ModelReply:
        """Send a command and wait for its reply; raises DeadlineExceeded. What was sent may still be done."""
        command = ModelCommand(
            tenant=SYSTEM_TENANT,
            id=new_id(),
            model=model,
            kind=kind,
            version=version,
            expected_revision=revision,
            sender=request.principal.credential,
            sent_at=self._clock.now(),
        )
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[ModelReply] = loop.create_future()

        def settle(reply: ModelReply) -> None:
            if not waiting.done():
                waiting.set_result(reply)

        self._follower.expect(command.id, lambda reply: _into(loop, settle, reply))
        try:
            await asyncio.to_thread(self._outbox.publish, COMMANDS, [command])
            return await asyncio.wait_for(waiting, self._answer_s)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no reply to the {kind} within {self._answer_s:g} s",
                mend="see what became of it with GET; `millstream status` tells whether the controller runs",
            ) from None
        finally:
            self._follower.forget(command.id)

    def _changed(self, model: str, reply: ModelReply, request: Request) -> Response:
        previous = model_id(model, reply.previous) if reply.previous else None
        target = model_id(model, reply.target) if reply.target else None
        if reply.outcome == "done":
            told: Mapping[str, Any] = {
                "previous": previous,
                "target": target,
                "duration_ms": reply.duration_ms or 0.0,
                "revision": reply.revision,
            }
            return json_response(200, told)
        if reply.outcome == "failed":
            return _problem(500, "swap_failed", reply, request, active=previous, target=target)
        if reply.outcome == "refused":
            return _problem(400, "swap_unsafe", reply, request, active=previous, target=target)
        raise _error(reply)


def _into(loop: asyncio.AbstractEventLoop, settle: Any, reply: ModelReply) -> None:
    try:
        loop.call_soon_threadsafe(settle, reply)
    except RuntimeError:
        return  # the loop is closed: nobody waits any more


def _view(model: str, fleet: Fleet) -> ModelView:
    routing = fleet.routing
    return ModelView(
        model=model,
        revision=routing.revision if routing else 0,
        active=fleet.active,
        rollback_target=routing.previous if routing else None,
        routes=routing.routes if routing else [],
        operation=routing.operation if routing else None,
        experiment=routing.experiment if routing else None,
        instances=len(fleet.instances),
        decided_at=routing.decided_at if routing else None,
        reason=routing.reason if routing else "",
        versions=[view for version in fleet.versions if (view := fleet.view(version)) is not None],
    )


def _version(model: str, version: str, fleet: Fleet) -> VersionView:
    view = fleet.view(version)
    if view is None:
        raise UnknownName("model version", version[:_MAX_NAME], fleet.versions, where=f"model {model}")
    return view


def _require_version(id: str, version: str) -> None:
    if not version:
        raise InvalidInput(
            f"{id[:_MAX_NAME]!r} names no version", code="invalid_request", mend="write model:version"
        )


def _error(reply: ModelReply) -> InvalidInput:
    if reply.outcome == "conflict":
        return Conflict(reply.reason, code="stale_revision", mend="read the model again, then decide")
    if reply.outcome == "unknown":
        unknown = UnknownName("model version", reply.target or "", [])
        unknown.what, unknown.mend = reply.reason, "`millstream models list` shows what is registered"
        return unknown
    return InvalidInput(reply.reason, code=f"{reply.kind}_refused")


def _problem(
    status: int, code: str, reply: ModelReply, request: Request, *, active: str | None, target: str | None
) -> Response:
    document = SwapProblem(
        type=f"urn:millstream:problem:{code}",
        title="Internal Server Error" if status == 500 else "Bad Request",
        status=status,
        detail=reply.reason,
        code=code,
        request_id=request.request_id,
        retryable=False,
        active=active,
        target=target,
        failed=[check.name for check in failed_checks(reply.checks)],
        checks=reply.checks,
    )
    return Response(status, msgspec.json.encode(document), CONTENT_TYPE)


async def _read(request: Request, kind: type[B]) -> B:
    """The body; raises InvalidInput (400) for one that is not right, as the source of these routes has it."""
    if content_type(request) != JSON:
        raise UnsupportedMediaType("one command at a time", mend=f"send {JSON}")
    raw = await request.body(_MAX_BODY)
    strict_json.check(raw)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(field.name for field in msgspec.structs.fields(kind))
        raise InvalidInput(str(error), code="invalid_request", mend=f"send an object of {fields}") from None
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None
