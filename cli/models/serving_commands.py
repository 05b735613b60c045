"""`millstream models swap|rollback|deploy|serving`: what serves, changed by commands to the controller."""

import json as json_
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import typer

from cli.audited import audited
from core.errors import Conflict, DeadlineExceeded, InvalidInput, MillstreamError, ModelFailed, UnknownName

Target = Annotated[str, typer.Argument(help="the version, as model:version")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Revision = Annotated[
    int | None, typer.Option("--expect", help="refuse when the routing's revision is another one")
]
READY_S = 30.0


def register(models_app: typer.Typer) -> None:
    """Add the commands to the group `models`."""
    models_app.command("serving")(serving)
    models_app.command("swap")(swap)
    models_app.command("rollback")(rollback)
    models_app.command("deploy")(deploy)


def serving(json: Json = False) -> None:
    """What every model is served by now, as the living workers tell it."""
    with _Line.open() as line:
        fleets = line.follower.fleets()
        views = [
            view
            for fleet in fleets.values()
            for version in fleet.versions
            if (view := fleet.view(version)) is not None
        ]
    if json:
        typer.echo(json_.dumps(msgspec.to_builtins(views)))
        return
    for view in views:
        share = f"{view.arm} {view.share:.0%}" if view.mode == "live" else view.mode or ""
        typer.echo(
            f"{view.id:<24} {view.state:<12} {share:<14} health {view.health:.2f}"
            f"  {view.records} records/min, {view.errors} errors, {view.latency_ms:.1f} ms  {view.reason}"
        )


def swap(target: Target, expect: Revision = None, json: Json = False) -> None:
    """Put another version in service, without losing a record. One that is not loaded is loaded first."""
    model, version = _split(target)
    with audited("models.swap", target=target), _Line.open() as line:
        line.require(model)
        if line.state(model, version) is None:
            line.ask("load", model, version, None)
            line.wait_loaded(model, version)
        _show(line.ask("swap", model, version, expect), json)


def rollback(
    model: Annotated[str, typer.Argument(help="which model")], expect: Revision = None, json: Json = False
) -> None:
    """Go back to the version before; during a canary, end it."""
    with audited("models.rollback", target=model), _Line.open() as line:
        line.require(model)
        _show(line.ask("rollback", model, None, expect), json)


def deploy(
    target: Target,
    strategy: Annotated[str, typer.Option(help="all | canary | shadow")] = "all",
    step: Annotated[
        list[str] | None, typer.Option(help="of a canary, repeated: SHARE:SECONDS, as 0.1:600")
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="a name in the routing")] = None,
    expect: Revision = None,
    json: Json = False,
) -> None:
    """Load, check and roll out a version: to all, in growing shares, or in shadow. Returns when it began."""
    from schemas.catalog.models import Step

    if strategy not in ("all", "canary", "shadow"):
        raise UnknownName("strategy", strategy, ("all", "canary", "shadow"))
    steps = []
    for one in step or ():
        share, _, hold = one.partition(":")
        try:
            steps.append(Step(float(share), float(hold)))
        except ValueError:
            raise InvalidInput(f"step {one!r}", mend="write SHARE:SECONDS, as 0.1:600") from None
    model, version = _split(target)
    with audited("models.deploy", target=target) as act, _Line.open() as line:
        act.detail["strategy"] = strategy
        line.require(model)
        more = {"strategy": strategy, "steps": steps, "experiment": experiment}
        _show(line.ask("deploy", model, version, expect, **more), json)


class _Line:
    """A line to the controller: states in, commands out."""

    def __init__(self, follower: Any, outbox: Any, answer_s: float) -> None:
        self.follower = follower
        self._outbox = outbox
        self._answer_s = answer_s

    @classmethod
    @contextmanager
    def open(cls) -> "Iterator[_Line]":
        from core.clock import SystemClock
        from core.settings import settings
        from pipelines.outbox import RecordOutbox
        from pipelines.serving.follower import Follower
        from schemas.registry import SchemaRegistry

        registry = SchemaRegistry.of(settings())
        follower = Follower(settings(), registry, SystemClock())
        follower.start()
        try:
            follower.wait_ready(READY_S)
            outbox = RecordOutbox(settings(), registry, source="cli")
            try:
                yield cls(follower, outbox, settings().rollout.answer_s)
            finally:
                outbox.close()
        finally:
            follower.close()
            registry.close()

    def require(self, model: str) -> None:
        fleets = self.follower.fleets()
        if model not in fleets:
            raise UnknownName("model", model, fleets)

    def state(self, model: str, version: str) -> str | None:
        found: str | None = self.follower.fleets()[model].state_of(version)
        return found

    def wait_loaded(self, model: str, version: str) -> None:
        """Until every worker holds it; raises ModelFailed with the workers' reason."""
        until = time.monotonic() + self._answer_s
        while time.monotonic() < until:
            fleet = self.follower.fleets()[model]
            view = fleet.view(version)
            if view is not None and view.state == "failed":
                raise ModelFailed(view.reason or "it failed to load", where=view.id)
            if (
                view is not None
                and view.state in ("ready", "deprecated")
                and view.instances == len(fleet.instances)
            ):
                return
            time.sleep(0.1)
        raise DeadlineExceeded(f"version {version} is not loaded within {self._answer_s:g} s")

    def ask(self, kind: Any, model: str, version: str | None, revision: int | None, **more: Any) -> Any:
        """Send a command; its first reply. Raises what the reply says."""
        import getpass

        from core.clock import SystemClock
        from core.ids import new_id
        from schemas.catalog.alerts import SYSTEM_TENANT
        from schemas.catalog.models import COMMANDS, ModelCommand, ModelReply

        command = ModelCommand(
            tenant=SYSTEM_TENANT,
            id=new_id(),
            model=model,
            kind=kind,
            version=version,
            expected_revision=revision,
            sender=getpass.getuser(),
            sent_at=SystemClock().now(),
            **more,
        )
        replies: queue.SimpleQueue[ModelReply] = queue.SimpleQueue()
        self.follower.expect(command.id, replies.put)
        self._outbox.publish(COMMANDS, [command])
        try:
            reply = replies.get(timeout=self._answer_s)
        except queue.Empty:
            raise DeadlineExceeded(
                f"no reply within {self._answer_s:g} s", mend="see whether the job `rollout` runs"
            ) from None
        if reply.outcome not in ("done", "accepted"):
            raise _error(reply)
        return reply


def _error(reply: Any) -> MillstreamError:
    where = f"{reply.kind} of {reply.model}"
    if reply.outcome == "conflict":
        return Conflict(reply.reason, where=where, mend="look again with `millstream models serving`")
    if reply.outcome == "failed":
        return ModelFailed(f"{reply.reason}; version {reply.previous} serves", where=where)
    return InvalidInput(reply.reason, where=where, code=f"{reply.kind}_{reply.outcome}")


def _split(target: str) -> tuple[str, str]:
    model, _, version = target.partition(":")
    if not version:
        raise InvalidInput(f"{target!r} names no version", mend="write model:version")
    return model, version


def _show(reply: Any, json: bool) -> None:
    if json:
        typer.echo(json_.dumps(msgspec.to_builtins(reply)))
        return
    took = "" if reply.duration_ms is None else f" in {reply.duration_ms:.0f} ms"
    was = f", before {reply.previous}" if reply.previous else ""
    word = {"done": "serves", "accepted": "is under way"}[reply.outcome]
    typer.echo(f"{reply.model}:{reply.target} {word}{took} (revision {reply.revision}{was})")
