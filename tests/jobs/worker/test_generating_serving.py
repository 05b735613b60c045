"""LLMs under the controller: its own decisions on one side, a pool over scripted servers on the other.

Between them goes what would go over Kafka, in memory and in order.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from core.clock import SystemClock
from jobs.rollout.control import champion_moved, commanded, passed
from jobs.rollout.decision import Decision, Rules
from jobs.worker.generating_serving import LlmServing
from operators.generate import PIPELINE
from pipelines.serving.fleet import Fleet
from pipelines.serving.safety import failed_checks, swap_safety
from schemas.catalog.alerts import SYSTEM_TENANT, Alert
from schemas.catalog.models import CommandKind, ModelCommand, ModelReply, ModelState
from tests.operators.generating import World, asked, words, world

RULES = Rules(patience=timedelta(seconds=60))
ONE, OTHER = "one", "other"


class Control:
    """The controller's part, by its pure functions; `instances` are processes that it hears of."""

    def __init__(self, instances: dict[str, LlmServing]) -> None:
        self.instances = instances
        self.fleet = Fleet()
        self.replies: list[ModelReply] = []
        self.alerts: list[Alert] = []
        self.clock = SystemClock()

    async def turn(self, decide: Callable[[Fleet], Decision] | None = None) -> None:
        for name, serving in self.instances.items():
            for state in await off_loop(serving.told, name):
                self.fleet = self.fleet.told(state)
        decision = decide(self.fleet) if decide else passed(self.fleet, self.clock.now(), RULES)
        self.replies += decision.replies
        self.alerts += decision.alerts
        if decision.routing is not None:
            self.fleet = self.fleet.routed(decision.routing)
            for serving in self.instances.values():
                await off_loop(serving.follow, decision.routing)

    async def ask(self, kind: CommandKind, version: str | None = None, **more: Any) -> ModelReply:
        """The last reply to a command."""
        command = ModelCommand(
            tenant=SYSTEM_TENANT,
            id=f"c{len(self.replies)}-{kind}",
            model=PIPELINE,
            kind=kind,
            version=version,
            sent_at=self.clock.now(),
            **more,
        )
        await self.turn(
            lambda fleet: commanded(fleet, command, self.clock.now(), RULES, registered=["one", "two"])
        )
        async with asyncio.timeout(60):
            while not [reply for reply in self.replies if reply.id == command.id]:
                await self.turn()
                await asyncio.sleep(0.005)
        return [reply for reply in self.replies if reply.id == command.id][-1]

    def state(self, version: str) -> ModelState:
        (found,) = self.fleet.of(version)
        return found

    async def until_state(self, version: str, state: str) -> ModelState:
        async with asyncio.timeout(60):
            while True:
                await self.turn()
                found = self.fleet.of(version)
                if found and all(told.state == state for told in found):
                    return found[0]
                await asyncio.sleep(0.01)


async def off_loop(method: Callable[..., Any], *given: Any) -> Any:
    return await asyncio.to_thread(method, *given)


def serving_over(w: World, retries: int = 3) -> LlmServing:
    return LlmServing(w.pool, clock=w.clock, retries=retries, loop=asyncio.get_running_loop())


@asynccontextmanager
async def controlled(*models: str, **more: Any) -> AsyncIterator[tuple[World, Control]]:
    """A pool of which one process tells, and its controller; the first model is routed."""
    async with world(*models, **more) as w:
        control = Control({ONE: serving_over(w)})
        await control.turn(lambda fleet: champion_moved(fleet, PIPELINE, models[0], w.clock.now(), RULES))
        await control.turn()
        yield w, control


async def said_by(w: World, id: str) -> str:
    return str(json.loads((await w.ask(asked(f"Who? {id}", id=id))).body)["model"])


async def test_what_is_there_is_told_with_its_health_and_its_tokens_a_second() -> None:
    async with controlled("one", "two") as (w, control):
        active, ready = control.state("one"), control.state("two")
        assert (active.state, active.stage, active.progress, active.revision) == ("active", "serving", 100, 1)
        assert (ready.state, ready.stage, ready.progress) == ("ready", "standing by", 100)
        for told in (active, ready):
            assert told.health == 1.0
            assert told.tokens_per_s is not None
            assert told.tokens_per_s > 0
        view = control.fleet.view("one")
        assert view is not None
        assert view.id == "generate:one"
        assert view.tokens_per_s == pytest.approx(active.tokens_per_s)
        await w.ask()
        await control.turn()
        assert control.state("one").records == 1
        assert control.state("one").latency_ms > 0


async def test_a_swap_and_a_rollback_by_command() -> None:
    async with controlled("one", "two") as (w, control):
        assert await said_by(w, "q1") == "one"
        reply = await control.ask("swap", "two")
        assert (reply.outcome, reply.previous, reply.target) == ("done", "one", "two")
        assert reply.duration_ms is not None
        assert reply.duration_ms > 0
        assert await said_by(w, "q2") == "two"
        await control.turn()
        assert control.state("one").state == "deprecated"
        assert control.state("two").state == "active"
        back = await control.ask("rollback")
        assert (back.outcome, back.target) == ("done", "one")
        assert await said_by(w, "q3") == "one"


async def test_what_is_unsafe_is_refused_with_every_check_that_failed() -> None:
    async with controlled("one", "two") as (w, control):
        same = await control.ask("swap", "one")
        assert same.outcome == "refused"
        assert [check.name for check in failed_checks(same.checks)] == ["target_differs"]
        w.fakes[1].script = ["status_500"] * 3
        assert not await w.pool.healthy("two", 3)
        await control.until_state("two", "failed")
        broken = await control.ask("swap", "two")
        names = [check.name for check in failed_checks(broken.checks)]
        assert names == ["exists_and_ready", "health_score"]
        unknown = swap_safety(control.fleet, PIPELINE, "three")
        assert not unknown.safe
        assert (await control.ask("rollback")).outcome == "refused"
        assert await said_by(w, "q1") == "one"


async def test_a_target_slower_than_the_floor_is_refused() -> None:
    async with controlled("one", "two") as (w, control):
        w.members[1].server._floor = 1000.0  # type: ignore[attr-defined]
        w.fakes[1].seconds_per_token = 0.02
        await w.pool.examine(w.members[1])
        await control.turn()
        told = control.state("two")
        assert told.health < 0.8
        assert "tokens/s, the floor is 1000" in told.reason
        reply = await control.ask("swap", "two")
        assert [check.name for check in failed_checks(reply.checks)] == ["health_score"]


async def test_a_target_that_fails_its_health_check_never_becomes_active() -> None:
    async with controlled("one", "two") as (w, control):
        w.fakes[1].script = ["status_500", "close", "garbage_json"]
        reply = await control.ask("swap", "two")
        assert reply.outcome == "failed"
        assert "failed its health check 3 times" in reply.reason
        assert w.fakes[1].script == []
        assert control.fleet.active == "one"
        assert [alert.kind for alert in control.alerts] == ["model_compatibility"]
        assert await said_by(w, "q1") == "one"
        assert await w.pool.healthy("two", 3)  # it came back, and may be swapped to
        await control.until_state("two", "ready")
        assert (await control.ask("swap", "two")).outcome == "done"


async def test_a_health_check_is_told_while_it_goes_on() -> None:
    async with controlled("one", "two") as (w, control):
        w.fakes[1].seconds_per_token = 0.05
        swapping = asyncio.create_task(control.ask("swap", "two"))
        seen: list[tuple[str, str]] = []
        while not swapping.done():
            told = control.fleet.of("two")
            if told:
                seen.append((told[0].state, told[0].stage))
            await asyncio.sleep(0.005)
        assert (await swapping).outcome == "done"
        stages = [stage for state, stage in seen if state == "health_check"]
        assert any(stage.startswith("probing s1 at ") for stage in stages)


async def test_a_loading_model_tells_how_far_it_is() -> None:
    async with world("one", "two", "two") as w:
        serving = serving_over(w)
        for member in w.members[1:]:
            member.state, member.health, member.up = type(member.state).LOADING, None, False

        async def told() -> ModelState:
            states: Sequence[ModelState] = await off_loop(serving.told, ONE)
            return next(state for state in states if state.version == "two")

        assert ((await told()).state, (await told()).stage, (await told()).progress) == (
            "loading",
            "waiting",
            0,
        )
        w.fakes[1].seconds_per_token = 0.05
        probing = asyncio.create_task(w.pool.examine(w.members[1]))
        progress = []
        while not probing.done():
            progress.append((await told()).progress)
            await asyncio.sleep(0.01)
        assert progress == sorted(progress)
        assert any(0 < percent < 50 for percent in progress)  # of one server of two
        assert ((await told()).state, (await told()).progress) == ("ready", 50)
        await w.pool.examine(w.members[2])
        assert (await told()).progress == 100
        w.fakes[1].script = w.fakes[2].script = ["status_503"] * 3
        for member in w.members[1:]:
            await w.pool.examine(member)
        first = await told()
        assert (first.state, first.stage) == ("loading", "its servers do not answer yet, try 1 of 3")
        assert "HTTP 503" in first.reason


async def test_an_active_model_that_turns_ill_is_failed_over() -> None:
    async with controlled("one", "two") as (w, control):
        assert (await control.ask("swap", "two")).outcome == "done"
        w.fakes[1].script = ["status_500"] * 3
        assert not await w.pool.healthy("two", 3)
        await control.until_state("one", "active")
        assert "model_failover" in [alert.kind for alert in control.alerts]
        answer = json.loads((await w.ask()).body)
        assert (answer["model"], answer["degraded"]) == ("one", False)


async def test_a_model_is_let_go_of_and_loaded_again() -> None:
    async with controlled("one", "two") as (w, control):
        assert (await control.ask("remove", "one")).outcome == "refused"
        assert (await control.ask("remove", "two")).outcome == "refused"  # it is ready
        w.fakes[1].script = ["status_500"] * 3
        assert not await w.pool.healthy("two", 3)
        await control.until_state("two", "failed")
        assert (await control.ask("load", "two")).outcome == "accepted"
        await control.turn()
        await control.turn()
        assert (await control.ask("remove", "two")).outcome == "done"
        await control.turn()
        assert control.fleet.of("two") == []
        assert w.pool.held == ("one",)
        assert (await control.ask("load", "two")).outcome == "accepted"
        await control.turn()
        assert control.state("two").state == "loading"
        await w.pool.examine(w.members[1])
        await control.until_state("two", "ready")
        assert (await control.ask("load", "three")).outcome == "unknown"
        assert (await control.ask("deploy", "two", strategy="shadow")).outcome == "refused"


async def test_two_processes_swap_together_or_not_at_all() -> None:
    async with controlled("one", "two") as (w, control), world("one", "two") as second:
        control.instances[OTHER] = serving_over(second)
        await control.turn()
        behind = swap_safety(control.fleet, PIPELINE, "two")
        assert [check.name for check in failed_checks(behind.checks)] == ["system_health"]
        routing = control.fleet.routing
        assert routing is not None
        await off_loop(control.instances[OTHER].follow, routing)
        second.fakes[1].script = ["status_500"] * 3
        assert (await control.ask("swap", "two")).outcome == "failed"
        assert (w.pool.active, second.pool.active) == ("one", "one")
        assert await second.pool.healthy("two", 3)
        await control.until_state("two", "ready")
        assert (await control.ask("swap", "two")).outcome == "done"
        assert (w.pool.active, second.pool.active) == ("two", "two")


async def test_swaps_by_command_under_load_lose_nothing_and_wait_for_nothing() -> None:
    async with controlled("one", "two", slots=8, queue=1000) as (w, control):
        for fake in w.fakes:
            fake.seconds_per_token = 0.001

        async def one(number: int) -> str:
            await asyncio.sleep(number * 0.005)
            answer = json.loads((await w.ask(asked(f"p{number}", id=f"q{number}", max_tokens=6))).body)
            assert answer["text"] == words(6)
            assert not answer["degraded"], answer["warnings"]
            return str(answer["model"])

        async def swaps() -> None:
            for number in range(4):
                reply = await control.ask("swap", "two" if number % 2 == 0 else "one")
                assert reply.outcome == "done", reply.reason

        work: list[Awaitable[Any]] = [one(number) for number in range(200)]
        *models, _ = await asyncio.gather(*work, swaps())
        assert set(models) == {"one", "two"}
        prompts = [str(one["messages"][0]["content"]) for fake in w.fakes for one in fake.seen]  # type: ignore[index]
        assert sorted(p for p in prompts if p.startswith("p")) == sorted(f"p{n}" for n in range(200))


async def test_a_model_that_no_server_has_any_more_is_told_and_the_order_of_the_settings_serves() -> None:
    async with world("one", "two") as w:
        control = Control({ONE: serving_over(w)})
        await control.turn(lambda fleet: champion_moved(fleet, PIPELINE, "gone", w.clock.now(), RULES))
        told = await control.until_state("gone", "failed")
        assert "gone" in told.reason
        assert await said_by(w, "q1") == "one"


async def test_a_loop_that_has_ended_is_told_of_by_nobody() -> None:
    async with world("one") as w:
        loop = asyncio.new_event_loop()
        serving = LlmServing(w.pool, clock=w.clock, retries=3, loop=loop)
        loop.close()
        assert await off_loop(serving.told, ONE) == []
        assert await off_loop(serving.leaving, ONE) == []


async def test_who_leaves_says_so() -> None:
    async with controlled("one", "two") as (_, control):
        for state in await off_loop(control.instances[ONE].leaving, ONE):
            control.fleet = control.fleet.told(state)
        assert control.fleet.instances == set()
