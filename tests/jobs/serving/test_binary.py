"""Tensors as bytes, as tritonclient sends and reads them, over real HTTP; and wrong ones of every kind."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from tests.jobs.serving.test_serving import Running, expected, own, running, tensor
from tests.models import made

__all__ = ["own", "running"]
PATH = "/v2/models/small/infer"
HEADER = "Inference-Header-Content-Length"
NUMBERS = (
    "FP16",
    "FP32",
    "FP64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "BOOL",
)


async def post(
    running: Running, body: bytes, length: int | str | None, path: str = PATH
) -> tuple[int, Any, bytes]:
    headers = {} if length is None else {HEADER: str(length)}
    async with running.client.post(running.address + path, data=body, headers=headers) as answer:
        return answer.status, answer.headers, await answer.read()


async def refused(running: Running, body: bytes, length: int | str | None) -> tuple[int, str]:
    status, _, answer = await post(running, body, length)
    told = json.loads(answer)
    assert told.keys() == {"error"}, told
    return status, told["error"]


async def inferred(running: Running, inputs: list[InferInput], outputs: Any = None) -> InferResult:
    body, length = InferenceServerClient.generate_request_body(inputs, outputs=outputs)
    status, headers, answer = await post(running, body, length)
    assert status == 200, answer
    own = headers.get(HEADER)
    return InferenceServerClient.parse_response_body(answer, header_length=own and int(own))


def whole(matrix: np.ndarray) -> InferInput:
    made_input = InferInput("inputs", list(matrix.shape), "FP32")
    made_input.set_data_from_numpy(np.ascontiguousarray(matrix, np.float32))
    return made_input


def by_column(records: list[dict[str, Any]], number: str, dtype: Any) -> list[InferInput]:
    found = []
    for item in made.SIGNED.inputs:
        values = [record[item.column] for record in records]
        if item.vocabulary is None:
            one = InferInput(item.column, [len(values)], number)
            one.set_data_from_numpy(np.array([np.nan if value is None else value for value in values], dtype))
        else:
            one = InferInput(item.column, [len(values)], "BYTES")
            one.set_data_from_numpy(np.array(values, np.object_))
        found.append(one)
    return found


async def test_a_matrix_as_bytes_both_ways(running: Running) -> None:
    _, matrix, scores = expected(60, 4)
    assert np.isnan(matrix).any()  # a missing value is NaN
    result = await inferred(running, [whole(matrix)])
    np.testing.assert_allclose(result.as_numpy(made.SIGNED.output.name), scores, atol=1e-5)
    assert result.get_output(made.SIGNED.output.name)["parameters"] == {"binary_data_size": 240}
    for binary in (True, False):
        outputs = [InferRequestedOutput(made.SIGNED.output.name, binary_data=binary)]
        again = await inferred(running, [whole(matrix)], outputs)
        assert ("data" in again.get_output(made.SIGNED.output.name)) is not binary
        np.testing.assert_allclose(again.as_numpy(made.SIGNED.output.name), scores, atol=1e-5)


async def test_columns_as_bytes_of_every_type(running: Running) -> None:
    records, _, _ = expected(200, 5)
    records = [record for record in records if all(value is not None for value in record.values())][:8]
    assert len(records) > 2
    _, answer, _ = await running.post("/api/v1/models/small/score", {"records": records})
    for number, dtype in (("FP32", np.float32), ("FP64", np.float64)):
        result = await inferred(running, by_column(records, number, dtype))
        np.testing.assert_allclose(result.as_numpy(made.SIGNED.output.name), answer["scores"], atol=1e-5)
    rounded = [
        {name: value if isinstance(value, str) else int(value) for name, value in record.items()}
        for record in records
    ]
    _, answer, _ = await running.post("/api/v1/models/small/score", {"records": rounded})
    result = await inferred(running, by_column(rounded, "INT64", np.int64))
    np.testing.assert_allclose(result.as_numpy(made.SIGNED.output.name), answer["scores"], atol=1e-5)


async def test_what_is_wrong_with_bytes_is_said(running: Running) -> None:
    _, matrix, _ = expected(3, 6)
    data = np.ascontiguousarray(matrix, "<f4").tobytes()

    def body(**more: Any) -> tuple[bytes, int]:
        one = {"name": "inputs", "shape": list(matrix.shape), "datatype": "FP32"}
        size = {"parameters": {"binary_data_size": len(data)}}
        text = json.dumps({"inputs": [one | size | more]}).encode()
        return text, len(text)

    text, length = body()
    status, _, answer = await post(running, text + data, length)
    assert status == 200, answer
    wrong: list[tuple[bytes, int | str | None, int, str]] = [
        (text + data[:-1], length, 422, "are left of the body"),
        (text + data + b"x", length, 422, "1 bytes more"),
        (text + data, length + 1, 400, "no valid JSON"),
        (text + data, 10**11, 400, "cannot be"),
        (text + data, "9" * 400, 400, "cannot be"),
        (text + data, "-1", 400, "cannot be"),
        (text + data, "x", 400, "cannot be"),
        (text + data, None, 400, "no valid JSON"),
        (text, length, 422, "are left of the body"),
    ]
    for more, said in (
        ({"parameters": {"binary_data_size": -1}}, "a number of bytes"),
        ({"parameters": {"binary_data_size": True}}, "a number of bytes"),
        ({"parameters": {"binary_data_size": 10**30}}, "a number of bytes"),
        ({"data": [1.0]}, "once, in the JSON or behind it"),
        ({"datatype": "FP64"}, "values for the shape"),
        ({"datatype": "BYTES"}, "no type of numbers"),
        ({"datatype": "FP128"}, "no type of numbers"),
        ({"shape": [10**12, 10**12]}, "is needed"),
        ({"shape": [-1, matrix.shape[1]]}, "is needed"),
        ({"shape": []}, "is needed"),
    ):
        other, size = body(**more)
        status, _, answer = await post(running, other + data, size)
        assert status in (400, 422), (more, answer)
        if b"10000" not in other or "shape" in more:
            assert said in json.loads(answer)["error"], (more, answer)
    for given, size_given, status, said in wrong:
        got, error = await refused(running, given, size_given)
        assert (got, said in error) == (status, True), (said, got, error)


@pytest.mark.parametrize("rows", [10**12, 2**62, -1, 0])
async def test_shapes_that_nobody_could_hold_are_refused(running: Running, rows: int) -> None:
    inputs = [
        {
            "name": item.column,
            "shape": [rows],
            "datatype": "BYTES" if item.vocabulary else "FP64",
            "data": [1],
        }
        for item in made.SIGNED.inputs
    ]
    status, _ = await refused(running, json.dumps({"inputs": inputs}).encode(), None)
    assert status == 422


@pytest.mark.parametrize("number", NUMBERS)
async def test_half_a_number_is_refused(running: Running, number: str) -> None:
    inputs, rest = [], b""
    for item in made.SIGNED.inputs:
        share = struct.pack("<I", 3) + b"abc" if item.vocabulary else b"\0" * 7
        kind = "BYTES" if item.vocabulary else number
        size = {"binary_data_size": len(share)}
        inputs.append({"name": item.column, "shape": [1], "datatype": kind, "parameters": size})
        rest += share
    text = json.dumps({"inputs": inputs}).encode()
    status, error = await refused(running, text + rest, len(text))
    assert status == 422, error


@pytest.mark.parametrize(
    "share",
    [b"\x05\0\0\0abc", b"\x01\0", b"\xff\xff\xff\xff", struct.pack("<I", 2) + b"\xff\xfe", b"\0\0\0\0" * 500],
)
async def test_texts_that_are_cut_off_or_no_text_are_refused(running: Running, share: bytes) -> None:
    (item,) = [item for item in made.SIGNED.inputs if item.vocabulary][:1]
    inputs = [
        {
            "name": other.column,
            "shape": [1],
            "datatype": "BYTES" if other.vocabulary else "FP32",
            "data": ["a" if other.vocabulary else 1],
        }
        for other in made.SIGNED.inputs
        if other is not item
    ]
    size = {"binary_data_size": len(share)}
    inputs.append({"name": item.column, "shape": [1], "datatype": "BYTES", "parameters": size})
    text = json.dumps({"inputs": inputs}).encode()
    status, error = await refused(running, text + share, len(text))
    assert (status, item.column in error) == (422, True)


async def test_versions_and_readiness(running: Running) -> None:
    for path in ("/v2/models/small", "/v2/models/small/versions/1"):
        status, body = await running.get(path)
        told = json.loads(body)
        assert (status, told["name"], told["versions"]) == (200, "small", ["1"])
        assert (await running.get(f"{path}/ready"))[0] == 200
    for path in ("/v2/models/none", "/v2/models/none/ready", "/v2/models/small/versions/7/ready"):
        assert (await running.get(path))[0] == 404
    assert json.loads((await running.get("/v2"))[1])["extensions"] == ["binary_tensor_data"]


async def test_what_a_gateway_says_of_the_tenant_counts(running: Running) -> None:
    """A request cannot break by the tenant that it claims where somebody knows better."""
    _, matrix, _ = expected(1, 7)
    body = json.dumps(tensor(matrix) | {"parameters": {"tenant": 7}}).encode()
    assert (await refused(running, body, None))[0] == 422
    async with running.client.post(
        running.address + PATH, data=body, headers={"x-millstream-tenant": "acme"}
    ) as answer:
        assert answer.status == 200


async def test_what_is_not_served_is_refused(running: Running) -> None:
    _, matrix, _ = expected(1, 8)
    for parameter in ({"classification": 2}, {"shared_memory_region": "x"}):
        outputs = [{"name": made.SIGNED.output.name, "parameters": parameter}]
        body = json.dumps(tensor(matrix) | {"outputs": outputs}).encode()
        status, error = await refused(running, body, None)
        assert (status, next(iter(parameter)) in error) == (422, True)
