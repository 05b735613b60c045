"""Direct serving over real HTTP: both protocols, every bad input, overload, the deadline, a swap."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from core.errors import DeadlineExceeded
from core.settings import LOOPBACK, Kafka, Serving, Settings
from jobs.serving.answers import error_answer
from jobs.serving.main import serve, sources
from models.encode import Encoder
from models.load import load
from models.store import CHAMPION, ModelStore
from tests.models import made

FILES = made.files(made.booster())
WIDTH = len(made.SIGNED.inputs)


class Running:
    def __init__(self, store: ModelStore, port: int, client: aiohttp.ClientSession) -> None:
        self.store, self.client = store, client
        self.address = f"http://{LOOPBACK}:{port}"

    async def post(self, path: str, body: Any) -> tuple[int, Any, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client.post(self.address + path, data=data) as answer:
            return answer.status, json.loads(await answer.read()), answer.headers

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.client.get(self.address + path) as answer:
            return answer.status, await answer.read()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind((LOOPBACK, 0))
        port: int = bound.getsockname()[1]
        return port


@pytest.fixture
def own() -> dict[str, Any]:
    """Settings of a test's own."""
    return {}


@pytest.fixture
async def running(tmp_path: Path, own: dict[str, Any]) -> AsyncIterator[Running]:
    store = ModelStore(tmp_path / "models", clock=made.CLOCK)
    store.publish("small", FILES, made.DESCRIPTION)
    store.set_alias("small", CHAMPION, "1")
    port = free_port()
    settings = Settings(home=tmp_path, serving=Serving(port=port, **own), kafka=Kafka(port=free_port()))
    stop = asyncio.Event()
    task = asyncio.create_task(serve(settings, sources(settings), stop=stop))
    async with aiohttp.ClientSession() as client:
        found = Running(store, port, client)
        for _ in range(600):
            try:
                if (await found.get("/ready"))[0] == 200:
                    break
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
        yield found
    stop.set()
    await asyncio.wait_for(task, 20)


def expected(count: int, seed: int) -> tuple[list[dict[str, Any]], np.ndarray, list[float]]:
    batch = made.rows(count, seed=seed)
    scores = made.scores(FILES["model.onnx"], batch)
    return batch.to_pylist(), Encoder(made.SIGNED).encode(batch), scores.tolist()


def nulls(matrix: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]


def tensor(matrix: np.ndarray, **more: Any) -> dict[str, Any]:
    given = {"name": "inputs", "shape": list(matrix.shape), "datatype": "FP32", "data": nulls(matrix)}
    return {"inputs": [given | more]}


async def test_records_in_scores_out(running: Running) -> None:
    records, _, scores = expected(70, 1)
    status, body, _ = await running.post("/api/v1/models/small/score", {"records": records})
    assert status == 200
    assert (body["model"], body["version"], body["errors"]) == ("small", "1", [])
    np.testing.assert_allclose(body["scores"], scores, atol=1e-5)
    status, body, _ = await running.post("/api/v1/models/small/score", {"records": []})
    assert (status, body["scores"]) == (200, [])


async def test_protocol_v2_whole_flat_and_by_column(running: Running) -> None:
    records, matrix, scores = expected(9, 2)
    flat = [value for row in nulls(matrix) for value in row]
    by_column = [
        {
            "name": item.column,
            "shape": [9, 1] if item.vocabulary is None else [9],
            "datatype": "FP64" if item.vocabulary is None else "BYTES",
            "data": [record[item.column] for record in records],
        }
        for item in made.SIGNED.inputs
    ]
    path = "/v2/models/small/infer"
    for body in (tensor(matrix), tensor(matrix, data=flat), {"inputs": by_column}):
        status, answer, _ = await running.post(path, body | {"id": "a1"})
        assert status == 200, answer
        (output,) = answer["outputs"]
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("small", "1", "a1")
        assert (output["name"], output["datatype"], output["shape"]) == ("probability", "FP32", [9])
        np.testing.assert_allclose(output["data"], scores, atol=1e-5)
    named = tensor(matrix) | {"outputs": [{"name": "probability"}]}
    assert (await running.post("/v2/models/small/versions/1/infer", named))[0] == 200


async def test_what_a_client_asks_first(running: Running) -> None:
    status, body = await running.get("/v2/models/small")
    told = json.loads(body)
    assert status == 200
    assert told["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, WIDTH]}]
    assert told["parameters"]["columns"] == list(made.SIGNED.columns)
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/small/ready", "/health", "/ready"):
        assert (await running.get(path))[0] == 200, path
    _, matrix, _ = expected(3, 3)
    right = tensor(matrix) | {"parameters": {"schema_fingerprint": told["parameters"]["schema_fingerprint"]}}
    assert (await running.post("/v2/models/small/infer", right))[0] == 200
    turned = tensor(matrix) | {"parameters": {"schema_fingerprint": "0" * 64}}
    assert (await running.post("/v2/models/small/infer", turned))[0] == 422


GOOD_ROW = [[5.0, None, 2.5, 0.0]]
GOOD_RECORD = {"amount_cents": 5, "count_1h": None, "mean_1h": 2.5, "product": "C"}


WRONG_TENSORS: list[tuple[dict[str, Any], int, str]] = [
    ({"shape": [1, 3]}, 422, "shape"),
    ({"shape": [4]}, 422, "shape"),
    ({"shape": [2, 4]}, 422, "data"),
    ({"shape": [-1, 4]}, 422, "shape"),
    ({"shape": [0, 4]}, 422, "data"),
    ({"datatype": "BYTES"}, 422, "datatype"),
    ({"datatype": "FP31"}, 422, "FP31"),
    ({"name": "input"}, 422, "amount_cents"),
    ({"data": [[None, 1.0, 2.0, 0.0]]}, 422, "amount_cents"),
    ({"data": [[1.0, 1e39, 2.0, 0.0]]}, 422, "count_1h"),
    ({"data": [[1.0, 1.0, 2.0, 7.0]]}, 422, "product"),
    ({"data": [[1.0, 1.0, 2.0, 0.5]]}, 422, "product"),
    ({"data": [["1", 1.0, 2.0, 0.0]]}, 422, "data"),
    ({"data": [[1.0], [1.0, 2.0, 0.0]]}, 422, "data"),
    ({"data": [5.0, 1.0, 2.0]}, 422, "data"),
    ({"data": 7}, 422, "data"),
    ({"data": {}}, 422, "data"),
]


async def test_a_wrong_tensor_is_named(running: Running) -> None:
    for change, status, named in WRONG_TENSORS:
        given = {"name": "inputs", "shape": [1, 4], "datatype": "FP32", "data": GOOD_ROW} | change
        found, body, _ = await running.post("/v2/models/small/infer", {"inputs": [given]})
        assert found == status, (change, body)
        assert named in body["error"], (change, body)


BAD_REQUESTS: list[tuple[str, Any, int]] = [
    ("/v2/models/none/infer", {"inputs": []}, 404),
    ("/v2/models/small/versions/7/infer", {"inputs": []}, 404),
    ("/v2/models/small/infer", {"inputs": []}, 422),
    ("/v2/models/small/infer", {}, 422),
    ("/v2/models/small/infer", b"{", 400),
    ("/v2/models/small/infer", b"\xff", 400),
    ("/v2/models/small/infer", b"[" * 10_000, 400),
    ("/v2/models/small/infer", {"inputs": [], "outputs": [{"name": "x"}]}, 422),
    ("/api/v1/models/none/score", {"records": []}, 404),
    ("/api/v1/models/small/score", {}, 422),
    ("/api/v1/models/small/score", b"", 400),
    ("/api/v1/models/small/score", b"[", 400),
    ("/api/v1/models/small/score", {"records": {}}, 422),
    ("/api/v1/models/small/score", {"records": [], "schema_fingerprint": "x"}, 422),
    ("/api/v1/models/small/score", {"records": [{**GOOD_RECORD, "amount_cents": None}]}, 422),
    ("/api/v1/models/small/score", {"records": [{**GOOD_RECORD, "mean_1h": "x"}]}, 422),
    ("/api/v1/models/../score", {"records": []}, 404),
    ("/nowhere", {}, 404),
]


async def test_bad_requests(running: Running) -> None:
    for path, body, status in BAD_REQUESTS:
        found, answer, _ = await running.post(path, body)
        assert found == status, (path, body, answer)
        if path.startswith("/v2"):
            assert set(answer) == {"error"}
        else:
            assert answer["status"] == status


async def test_the_wrong_inputs_of_records_are_pointed_at(running: Running) -> None:
    records = [GOOD_RECORD, {"amount_cents": None, "count_1h": "x", "product": "C"}]
    status, body, headers = await running.post("/api/v1/models/small/score", {"records": records})
    assert status == 422
    assert headers["content-type"] == "application/problem+json"
    assert {one["pointer"] for one in body["errors"]} == {
        "/records/1/amount_cents", "/records/1/count_1h", "/records/1/mean_1h",
    }  # fmt: skip


async def test_many_callers_get_their_own_scores(running: Running) -> None:
    records, _, scores = expected(400, 5)

    async def one(start: int) -> None:
        end = start + 1 + start % 3
        status, body, _ = await running.post("/api/v1/models/small/score", {"records": records[start:end]})
        assert status == 200
        np.testing.assert_allclose(body["scores"], scores[start:end], atol=1e-5)

    await asyncio.gather(*(one(start) for start in range(397)))
    text = (await running.get("/metrics"))[1].decode()
    assert 'millstream_infer_model_ms_count{model="small",version="1"}' in text
    assert 'millstream_infer_rows_count{model="small",version="1"}' in text
    assert 'millstream_serving_requests_total{route="score",status="200"}' in text


@pytest.mark.parametrize("own", [{"max_body_bytes": 2048}])
async def test_a_large_body_is_refused_whether_or_not_it_says_its_length(running: Running) -> None:
    body = json.dumps({"records": [], "more": "x" * 4096}).encode()
    assert (await running.post("/api/v1/models/small/score", body))[0] == 413

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 100):
            yield body[at : at + 100]

    address = f"{running.address}/api/v1/models/small/score"
    async with running.client.post(address, data=pieces()) as answer:
        assert answer.status == 413


@pytest.mark.parametrize("own", [{"queued_rows": 1}])
async def test_a_full_queue_is_503_with_retry_after(running: Running) -> None:
    """More than the queue holds, from many callers in one moment."""
    records, _, _ = expected(3, 6)
    found = await asyncio.gather(
        *(running.post("/api/v1/models/small/score", {"records": records}) for _ in range(200))
    )
    refused = [(body, headers) for status, body, headers in found if status == 503]
    assert {status for status, _, _ in found} <= {200, 503}
    assert refused, "nobody was refused"
    assert refused[0][0]["code"] == "queue_full"
    assert int(refused[0][1]["Retry-After"]) >= 1


def test_a_passed_deadline_is_504() -> None:
    """That it passes in the queue is seen in `tests/operators/test_batching.py`."""
    for path in ("/v2/models/small/infer", "/api/v1/models/small/score"):
        status, headers, _ = error_answer(DeadlineExceeded("the deadline passed"), path)
        assert status == 504
        assert "retry-after" in dict(headers)


async def test_the_champion_is_followed_and_no_request_is_lost(running: Running) -> None:
    records, _, old = expected(1, 7)
    other = made.files(made.booster(seed=3))
    running.store.publish("small", other, made.DESCRIPTION)
    new = load(running.store.resolve("small", "2"))
    wanted = {"1": old[0], "2": float(new.score(new.encode(made.rows(1, seed=7)))[0])}
    running.store.set_alias("small", CHAMPION, "2")
    for _ in range(2_000):
        status, body, _ = await running.post("/api/v1/models/small/score", {"records": records})
        assert status == 200
        assert body["scores"][0] == pytest.approx(wanted[body["version"]], abs=1e-5)
        if body["version"] == "2":
            return
        await asyncio.sleep(0.01)
    pytest.fail("the new champion never served")


async def test_it_waits_for_a_model_and_says_so(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(home=tmp_path, serving=Serving(port=port), kafka=Kafka(port=free_port()))
    stop = asyncio.Event()
    task = asyncio.create_task(serve(settings, sources(settings, ["small"]), stop=stop))
    async with aiohttp.ClientSession() as client:
        running = Running(ModelStore(tmp_path / "models"), port, client)
        for _ in range(200):
            try:
                status, body = await running.get("/ready")
                if b"small" in body:
                    break
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
        assert status == 503
        assert (await running.get("/health"))[0] == 200
    stop.set()
    await asyncio.wait_for(task, 20)
