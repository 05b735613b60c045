"""The models of a serving process, each with what follows its routing, its queue and its doors.

A request is answered by one version, whole. It is the version of the request's assignment unit; where that
one breaks, or cannot score all of the rows, the version before it answers, and says so. What was begun with
a version ends with it, whatever is put in service meanwhile.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from core.errors import InternalError, MillstreamError, ModelError, ModelUnavailable, UnknownName
from core.ids import new_id
from jobs.worker.held import LiveRoute, Service, VersionBroken, points
from jobs.worker.routed import broken, count
from jobs.worker.serving import Serving
from jobs.worker.shadows import Shadows
from models.load import LoadedModel
from models.rows import RowReader
from operators.batching import Batching, Bounds, Scored
from operators.infer import Inferred, infer_matrix
from operators.late_features import MAX_REASON
from operators.ports import Matrix, Scorer


@dataclass(frozen=True)
class Door:
    """One version and how records come to it."""

    model: LoadedModel
    rows: RowReader


Read = Callable[[Door], Matrix]
"""The rows of a request as the matrix of a version; raises InvalidInput. May be called in any thread."""


@dataclass(frozen=True)
class Asked:
    """One request. `unit` and `tenant` say whose it is, so that a canary gives it the version that the stream
    would; without a unit it is a unit of its own. `version`: no other may answer."""

    read: Read
    tenant: str = ""
    unit: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class Answered:
    """`route.fallback` says why this version answers for another one, where it does."""

    route: LiveRoute
    door: Door
    scored: Scored


class Served:
    """One model, followed as a worker follows it. `answer` belongs to one event loop."""

    def __init__(self, name: str, serving: Serving, bounds: Bounds, *, timeout_s: float) -> None:
        self.name = name
        self.serving = serving
        self.batching = Batching(bounds)
        self._timeout_s = timeout_s
        self._shadows = Shadows()
        self._doors: dict[str, Door] = {}
        self._mending: dict[str, asyncio.Task[bool]] = {}

    @property
    def door(self) -> Door:
        """That of the champion in service now. Raises ModelError while there is none."""
        return self._door(self.serving.current.champion.scorer)

    def door_of(self, version: str) -> Door:
        """That of a version in service. Raises UnknownName, and ModelError while there is none."""
        return self._door(self._named(version, self.serving.current).scorer)

    async def answer(self, asked: Asked) -> Answered:
        """Raises what `read` raises, UnknownName for a version that is not in service, QueueFull and
        DeadlineExceeded as `Batching.score`, and ModelUnavailable while the model does not work."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        for last in (False, True):
            service = self.serving.current
            try:
                return await self._answered(asked, service, deadline)
            except VersionBroken as error:
                if asked.version is not None or not await self._broke(error) or last:
                    raise ModelUnavailable(
                        f"the model does not work: {error.what}", where=error.where
                    ) from error
        raise InternalError("no attempt was made")

    async def _answered(self, asked: Asked, service: Service, deadline: float) -> Answered:
        route = self._route(asked, service)
        matrix = asked.read(self._door(route.scorer))
        answered = await self._scored(route, service, matrix, deadline)
        failed = answered.scored.failed
        spare = service.spare(route) if failed and asked.version is None else None
        if spare is not None:
            why = f"version {route.version}: {failed[0].error.what}"[:MAX_REASON]
            again = await self._spared(asked, replace(spare, fallback=why), service, deadline)
            if again is not None and len(again.scored.failed) < len(failed):
                answered = again
        if service.shadows and answered.route.fallback is None:
            self._shadows.offer(len(matrix), partial(self._call, asked.read), service.shadows)
        return answered

    async def _spared(
        self, asked: Asked, route: LiveRoute, service: Service, deadline: float
    ) -> Answered | None:
        """The same request by the version before; None where that does no better."""
        try:
            matrix = asked.read(self._door(route.scorer))
            return await self._scored(route, service, matrix, deadline)
        except MillstreamError:
            return None

    async def _scored(self, route: LiveRoute, service: Service, matrix: Matrix, deadline: float) -> Answered:
        door = self._door(route.scorer)
        if not len(matrix):
            return Answered(route, door, Scored(self.name, route.version, np.empty(0, np.float32)))
        try:
            scored = await self.batching.score(route.scorer, matrix, deadline=deadline)
        except ModelError as error:
            raise broken(route, len(matrix), error) from error
        failed = scored.failed
        outputs = scored.outputs[~np.isnan(scored.outputs)] if failed else scored.outputs

        def again(scorer: Scorer) -> int:
            if self._door(scorer).model.signature.fingerprint != door.model.signature.fingerprint:
                return 0
            return len(infer_matrix(matrix[[bad.row for bad in failed]], scorer).ok)

        count(route, service, points(outputs, route.scorer), failed, scored.model_ms, again)
        return Answered(route, door, scored)

    def _route(self, asked: Asked, service: Service) -> LiveRoute:
        if asked.version is not None:
            return self._named(asked.version, service)
        if len(service.routes) == 1:
            return service.champion
        return service.route_of(asked.tenant, asked.unit or new_id())

    def _named(self, version: str, service: Service) -> LiveRoute:
        for route in service.routes:
            if route.version == version:
                return route
        known = [route.version for route in service.routes]
        raise UnknownName("model version", version[:64], known, where=f"model {self.name}")

    async def _broke(self, error: VersionBroken) -> bool:
        """Whether another version serves from now on; asked once for all requests that a version failed."""
        task = self._mending.get(error.version)
        if task is None:
            task = asyncio.ensure_future(asyncio.to_thread(self.serving.broke, error))
            self._mending[error.version] = task
            task.add_done_callback(lambda _: self._mending.pop(error.version))
        return await asyncio.shield(task)

    def _call(self, read: Read, scorer: Scorer) -> Inferred:
        return infer_matrix(read(self._door(scorer)), scorer)

    def _door(self, model: Scorer) -> Door:
        door = self._doors.get(model.version)
        if door is None or door.model is not model:
            if not isinstance(model, LoadedModel):
                raise InternalError(f"model {self.name} came from elsewhere than a store")
            held = self.serving.versions
            self._doors = {version: door for version, door in self._doors.items() if version in held}
            door = self._doors[model.version] = Door(model, RowReader(model.signature))
        return door


class Models:
    """By name."""

    def __init__(self, served: Mapping[str, Served]) -> None:
        self._served = dict(served)

    def find(self, name: str) -> Served:
        """Raises UnknownName."""
        found = self._served.get(name)
        if found is None:
            raise UnknownName("model", name[:64], self._served)
        return found
