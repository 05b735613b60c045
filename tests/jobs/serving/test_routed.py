"""Direct serving that follows routings on real Kafka: swaps under load, canaries, shadows, failover."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa
import pytest

from core.clock import SystemClock
from core.errors import ModelFailed
from core.ids import new_id
from core.settings import LOOPBACK, Serving, settings
from jobs.serving.main import serve
from models.encode import Encoder
from models.load import LoadedModel, load
from models.store import CHAMPION, ModelStore
from operators.ports import Matrix
from pipelines.outbox import RecordOutbox
from pipelines.serving.assignment import place_of
from pipelines.serving.fleet import Fleet
from pipelines.serving.follower import Follower
from schemas.catalog.alerts import SYSTEM_TENANT
from schemas.catalog.models import ROUTING, ModelState, Operation, Route, Routing
from schemas.registry import SchemaRegistry
from stack.local import Stack
from tests.jobs.rollout.world import create_serving_topics
from tests.models import made
from tests.stack_fixture import free_ports

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
DEADLINE_S = 90.0
FILES = {str(seed + 1): made.files(made.booster(seed=seed)) for seed in range(3)}


def told_apart() -> pa.RecordBatch:
    """Rows that every version scores otherwise, so that scores say who gave them."""
    rows = made.rows(400, seed=8)
    scores = [made.scores(files["model.onnx"], rows) for files in FILES.values()]
    differ = np.ones(rows.num_rows, bool)
    for one, other in itertools.combinations(scores, 2):
        differ &= np.abs(one - other) > 1e-3
    return rows.take(pa.array(np.flatnonzero(differ)))


ROWS = told_apart()
RECORDS = ROWS.to_pylist()
MATRIX = Encoder(made.SIGNED).encode(ROWS)
EXPECTED = {version: made.scores(files["model.onnx"], ROWS) for version, files in FILES.items()}
PATHS = ("/api/v1/models/{}/score", "/v2/models/{}/infer")


class Source:
    """The versions of a store; those in `broken` pass at load and then work no more."""

    def __init__(self, store: ModelStore, model: str) -> None:
        self.broken: set[str] = set()
        self._store = store
        self._model = model

    def champion(self) -> str:
        return self._store.resolve(self._model, CHAMPION).version

    def load(self, version: str) -> LoadedModel:
        model = load(self._store.resolve(self._model, version), engine="onnx")
        score, check = model.score, model.check

        def scored(matrix: Matrix) -> Matrix:
            if version in self.broken:
                raise ModelFailed("it does not work any more")
            return score(matrix)

        def checked() -> None:
            if version in self.broken:
                raise ModelFailed("it does not work any more")
            check()

        model.score, model.check = scored, checked  # type: ignore[method-assign]
        return model


class World:
    """A model of a test's own, served in this process, and the routings that a controller would write."""

    def __init__(self, folder: Path) -> None:
        self.model = f"direct-{new_id()[-12:]}"
        store = ModelStore(folder, clock=made.CLOCK)
        for files in FILES.values():
            store.publish(self.model, files, made.DESCRIPTION)
        store.set_alias(self.model, CHAMPION, "1")
        self.source = Source(store, self.model)
        registry = SchemaRegistry.of(settings())
        self.follower = Follower(settings(), registry, SystemClock())
        self.outbox = RecordOutbox(settings(), registry, source="test")
        (port,) = free_ports(1)
        self.settings = settings().model_copy(update={"serving": Serving(port=port)})
        self.address = f"http://{LOOPBACK}:{port}"
        self.client: aiohttp.ClientSession
        self.revision = 0

    def route(self, *routes: Route, **more: Any) -> None:
        """Write a routing."""
        self.revision += 1
        routing = Routing(
            tenant=SYSTEM_TENANT,
            id=f"{self.model}:{self.revision}",
            model=self.model,
            revision=self.revision,
            routes=list(routes),
            salt="salt",
            decided_at=SystemClock().now(),
            **more,
        )
        self.outbox.publish(ROUTING, [routing])

    async def told(self, version: str, true: Callable[[ModelState], bool]) -> ModelState:
        """Wait for the state that the process tells of a version."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                fleet = self.follower.fleets().get(self.model, Fleet())
                for state in fleet.of(version):
                    if true(state):
                        return state
                await asyncio.sleep(0.02)

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], Any]:
        async with self.client.post(self.address + path.format(self.model), data=json.dumps(body)) as answer:
            return answer.status, json.loads(await answer.read()), answer.headers

    async def asked(self, number: int, unit: str | None = None) -> dict[str, Any]:
        """A request by one of the protocols, of one to five rows; its answer is that of the one version that
        it names. Gives version and parameters."""
        rows = [(number + more) % len(RECORDS) for more in range(1 + number % 5)]
        path = PATHS[number % 2]
        named = {} if unit is None else {"tenant": "acme", "assignment_unit": unit}
        if path == PATHS[0]:
            body = {"records": [RECORDS[row] for row in rows], **named}
        else:
            data = [[None if np.isnan(value) else float(value) for value in MATRIX[row]] for row in rows]
            tensor = {"name": "inputs", "shape": [len(rows), 4], "datatype": "FP32", "data": data}
            body = {"inputs": [tensor], "parameters": named}
        status, answer, _ = await self.post(path, body)
        assert status == 200, answer
        if path == PATHS[0]:
            version, scores, more = answer["version"], answer["scores"], answer
        else:
            version, scores = answer["model_version"], answer["outputs"][0]["data"]
            more = answer.get("parameters") or {}
        np.testing.assert_allclose(scores, EXPECTED[version][rows], atol=1e-5)
        return {
            "version": version,
            "degraded": more.get("degraded", False),
            "reason": more.get("degraded_reason"),
        }


@pytest.fixture
async def world(stack: Stack, tmp_path: Path) -> AsyncIterator[World]:
    del stack
    create_serving_topics()
    found = World(tmp_path)
    found.follower.start()
    found.follower.wait_ready(30)
    stop = asyncio.Event()
    task = asyncio.create_task(serve(found.settings, {found.model: found.source}, stop=stop))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as found.client:
        async with asyncio.timeout(DEADLINE_S):
            while not await ready(found):
                await asyncio.sleep(0.02)
        yield found
        stop.set()
        await asyncio.wait_for(task, 30)
    found.follower.close()
    found.outbox.close()


async def ready(world: World) -> bool:
    try:
        async with world.client.get(world.address + "/ready") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def test_a_swap_under_load_loses_nothing_and_no_answer_is_of_two_versions(world: World) -> None:
    numbers, done, stop = itertools.count(), Counter[str](), asyncio.Event()

    async def caller() -> None:
        while not stop.is_set():
            answer = await world.asked(next(numbers))
            assert not answer["degraded"]
            done[answer["version"]] += 1

    async def more(version: str) -> None:
        """Some answers later, all by this version."""
        await asyncio.sleep(0)
        before = done.copy()
        async with asyncio.timeout(DEADLINE_S):
            while done[version] < before[version] + 50:
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as callers:
        for _ in range(16):
            callers.create_task(caller())
        await more("1")  # without a routing the champion serves
        now = SystemClock().now()
        operation = Operation("c1", "swap", "2", "all", "health_check", now, now)
        world.route(Route("1"), standby=["2"], operation=operation)
        told = await world.told("2", lambda state: state.checked == "c1")
        assert (told.state, told.pipeline, told.revision) == ("ready", "serving", 1)
        await more("1")
        assert not done["2"]
        world.route(Route("2"), previous="1", deprecated=["1"])
        await world.told("2", lambda state: state.state == "active")
        await more("2")
        world.route(Route("1"), previous="2", deprecated=["2"])
        await world.told("2", lambda state: state.state == "deprecated")
        await more("1")
        stop.set()
    assert done.total() == next(numbers)
    assert done.keys() == {"1", "2"}
    state = await world.told("1", lambda state: state.records > 0 and state.revision == 3)
    assert (state.errors, state.health, state.state) == (0, 1.0, "active")


async def test_a_canary_has_its_share_of_units_and_each_unit_one_version(world: World) -> None:
    units = [f"card-{number}" for number in range(300)]

    async def versions() -> dict[str, str]:
        found = {}
        for number, unit in enumerate(units):
            (version,) = {(await world.asked(number + turn, unit))["version"] for turn in range(2)}
            found[unit] = version
        return found

    world.route(Route("1", 0.7), Route("2", 0.3, arm="canary"))
    await world.told("2", lambda state: state.state == "active")
    assert await versions() == {
        unit: "2" if place_of("salt", f"acme|{unit}") < 0.3 else "1" for unit in units
    }
    without = Counter([(await world.asked(number))["version"] for number in range(200)])
    assert 20 < without["2"] < 100  # a request that names no unit is one
    named = {"inputs": [{"name": "inputs", "shape": [0, 4], "datatype": "FP32", "data": []}]}
    for version in ("1", "2"):
        path = f"/v2/models/{{}}/versions/{version}/infer"
        assert (await world.post(path, named))[1]["model_version"] == version
    assert (await world.post("/v2/models/{}/versions/3/infer", named))[0] == 404
    wrong = named | {"parameters": {"assignment_unit": 7}}
    assert (await world.post(PATHS[1], wrong))[0] == 422


async def test_where_the_active_version_breaks_the_one_before_it_answers(world: World) -> None:
    world.route(Route("2"), previous="1", deprecated=["1"])
    await world.told("2", lambda state: state.state == "active")
    assert (await world.asked(1))["version"] == "2"
    world.source.broken.add("2")
    answers = await asyncio.gather(*(world.asked(number) for number in range(200)))
    assert {answer["version"] for answer in answers} == {"1"}
    assert all(answer["degraded"] and "version 2" in answer["reason"] for answer in answers)
    failed = await world.told("2", lambda state: state.state == "failed")
    assert "does not work" in failed.reason
    world.route(Route("1"), previous=None, failed=["2"])
    await world.told("1", lambda state: state.revision == 2 and state.state == "active")
    assert not (await world.asked(2))["degraded"]


async def test_without_another_version_it_is_503_until_the_model_works_again(world: World) -> None:
    body = {"records": RECORDS[:1]}
    assert (await world.post(PATHS[0], body))[0] == 200
    world.source.broken.add("1")
    for path in PATHS:
        given = body if path == PATHS[0] else {"inputs": [_tensor()]}
        status, answer, headers = await world.post(path, given)
        assert status == 503, answer
        assert int(headers["Retry-After"]) >= 1
    world.source.broken.clear()
    async with asyncio.timeout(DEADLINE_S):
        while (await world.post(PATHS[0], body))[0] != 200:
            await asyncio.sleep(0.02)


async def test_a_shadow_scores_what_is_asked_and_answers_nobody(world: World) -> None:
    world.route(Route("1"), Route("3", mode="shadow", arm="shadow"))
    await world.told("3", lambda state: state.stage == "shadow")
    answers = [await world.asked(number) for number in range(100)]
    assert {answer["version"] for answer in answers} == {"1"}
    told = await world.told("3", lambda state: state.records > 0)
    assert told.errors == 0


def _tensor() -> dict[str, Any]:
    return {"name": "inputs", "shape": [1, 4], "datatype": "FP32", "data": [[5.0, None, 2.5, 0.0]]}
