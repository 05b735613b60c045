"""Trainings by HTTP: ask for one, see how it stands, acknowledge how it ended.

`POST /api/v1/training/jobs` with `{"model": "fraud", "search": {"trials": 20}, ...}`: the keys of a
configuration, changing the model's own. Who is told and where the rows come from is the operator's to say.
The answer, 202 with `Location`, is given once the wish is on Kafka; nothing has begun then.
`GET /api/v1/training/jobs[/{id}]` and `POST /api/v1/training/jobs/{id}/acknowledge`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from core.clock import Clock, to_millis
from core.errors import Conflict, Rejected, UnknownName
from core.ids import new_id
from gateway import strict_json
from gateway.bodies import JSON, content_type
from gateway.caller import caller_of
from gateway.exchange import Request, Response, json_response
from gateway.problems import NotFound, UnsupportedMediaType
from gateway.publisher import Outgoing, Publisher
from gateway.training_states import SCHEDULED, Job, TrainingStates
from pipelines.training.configuration import Configuration
from pipelines.training.reading import changed, parse, values_of
from schemas.catalog.training import COMMANDS, ENDED, TrainingCommand
from schemas.codec import RecordCodec
from schemas.headers import event_headers
from schemas.keys import key_of

PATH = "/api/v1/training/jobs"
_MAX_BODY = 64 * 1024
OPERATORS = ("name", "pipeline", "task", "source", "notifications", "schedule")


class TrainingEndpoint:
    """The handlers. `configurations` are those that may be asked for, by model."""

    def __init__(
        self,
        configurations: Callable[[], Mapping[str, Configuration]],
        states: TrainingStates,
        publisher: Publisher,
        codec: RecordCodec[TrainingCommand],
        clock: Clock,
    ) -> None:
        self._configurations, self._states = configurations, states
        self._publisher, self._codec, self._clock = publisher, codec, clock

    async def post(self, request: Request) -> Response:
        if content_type(request) != JSON:
            raise UnsupportedMediaType("one training at a time", mend=f"send {JSON}")
        configuration = self._wanted(strict_json.parse(await request.body(_MAX_BODY)))
        id, now, principal = new_id(), self._clock.now(), request.principal
        request.target = f"{configuration.name} {id}"
        command = TrainingCommand(
            tenant=principal.tenant,
            id=id,
            kind="train",
            model=configuration.name,
            configuration=msgspec.json.encode(configuration).decode(),
            asked_by=principal.credential,
            asked_at=now,
        )
        await self._send(command, caller_of(request))
        job = Job(id, configuration.name, SCHEDULED, principal.credential, now)
        self._states.took(principal.tenant, job)
        return json_response(202, _answer(job), [("location", f"{PATH}/{id}")])

    async def list(self, request: Request) -> Response:
        most = request.count("limit", default=50, most=500)
        jobs = self._states.jobs(request.principal.tenant, most=most)
        return json_response(200, {"jobs": [_answer(job) for job in jobs]})

    async def get(self, request: Request) -> Response:
        return json_response(200, _answer(self._job(request)))

    async def acknowledge(self, request: Request) -> Response:
        job = self._job(request)
        if job.state not in ENDED:
            raise Conflict(
                f"the training is {job.state}", mend="acknowledge it when it ended", code="not_ended"
            )
        status = job.status
        command = TrainingCommand(
            tenant=request.principal.tenant if status is None else status.tenant,
            id=job.id,
            kind="acknowledge",
            model=job.model,
            asked_by=request.principal.credential,
            asked_at=self._clock.now(),
        )
        await self._send(command, caller_of(request))
        return json_response(202, _answer(job), [("location", f"{PATH}/{job.id}")])

    def _wanted(self, body: Any) -> Configuration:
        """The configuration that a body asks for. Raises Rejected with every wrong place, UnknownName."""
        if not isinstance(body, dict):
            raise Rejected("no training", fields={"": "must be an object"}, code="invalid_training")
        changes = {str(name): value for name, value in body.items() if name != "model"}
        closed = {f"/{name}": "is the operator's to say" for name in OPERATORS if name in changes}
        model = body.get("model")
        if not isinstance(model, str):
            closed["/model"] = "must be the name of a model"
        if closed:
            raise Rejected("no training", fields=closed, code="invalid_training")
        known = self._configurations()
        if model not in known:
            raise UnknownName("training", str(model)[:80], known)
        return parse(changed(values_of(known[str(model)]), changes), where=f"training {model}")

    def _job(self, request: Request) -> Job:
        job = self._states.job(request.principal.tenant, request.parameters["id"])
        if job is None:
            raise NotFound(f"no training {request.parameters['id'][:128]!r}")
        return job

    async def _send(self, command: TrainingCommand, caller: Mapping[str, str]) -> None:
        headers = event_headers(
            id=command.id,
            source=command.asked_by,
            type=TrainingCommand.spec().full_name,
            time=command.asked_at,
            tenant=command.tenant,
            received_at=command.asked_at,
            caller=caller,
        )
        key, value = key_of(command.tenant, command.model), self._codec.encode(command)
        outgoing = Outgoing(COMMANDS.name, key, value, headers, to_millis(command.asked_at))
        (problem,) = await self._publisher.publish([outgoing])
        if problem is not None:
            raise problem


def _answer(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": job.id,
        "model": job.model,
        "state": job.state,
        "asked_by": job.asked_by,
        "created_at": job.created_at,
    }
    status = job.status
    if status is None:
        return found
    found |= {
        "stage": status.stage,
        "stages": {"done": status.stages_done, "all": status.stages},
        "trials": {"done": status.trials_done, "all": status.trials},
        "metrics": status.metrics,
        "version": status.version,
        "problem": status.problem,
        "changed_at": status.changed_at,
    }
    if status.acknowledged_at is not None:
        found["acknowledged"] = {"by": status.acknowledged_by, "at": status.acknowledged_at}
    return found
