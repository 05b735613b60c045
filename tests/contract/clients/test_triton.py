"""NVIDIA's tritonclient, as it is, at the gateway: only the address and the key's header are ours."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from models import golden
from models.registry import open_registry
from models.store import GOLDEN
from tests.contract.clients.conftest import Site

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]


@pytest.fixture
def triton(site: Site) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(site.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="module")
def known(site: Site) -> tuple[pa.RecordBatch, np.ndarray]:
    """The golden rows that the model was published with, and their scores."""
    stored = open_registry(site.settings).resolve("fraud")
    rows, expected = golden.unpack(stored.read(GOLDEN), where="the test")
    return rows.slice(0, 50), expected[:50]


def matrix_input(site: Site, rows: pa.RecordBatch) -> InferInput:
    matrix = site.model.encode(rows)
    made = InferInput("inputs", list(matrix.shape), "FP32")
    made.set_data_from_numpy(np.ascontiguousarray(matrix, np.float32))
    return made


def columns(site: Site, rows: pa.RecordBatch, number: str, dtype: Any, *, binary: bool) -> list[InferInput]:
    found = []
    for item in site.model.signature.inputs:
        values = rows.column(item.column).to_pylist()
        if item.vocabulary is not None:
            one = InferInput(item.column, [len(values)], "BYTES")
            one.set_data_from_numpy(np.array(values, np.object_), binary_data=binary)
        else:
            one = InferInput(item.column, [len(values)], number)
            given = np.array([np.nan if value is None else float(value) for value in values], dtype)
            one.set_data_from_numpy(given, binary_data=binary)
        found.append(one)
    return found


def filled(site: Site, rows: pa.RecordBatch) -> pa.RecordBatch:
    found = {}
    for item in site.model.signature.inputs:
        column = rows.column(item.column)
        other = item.vocabulary[0] if item.vocabulary else 1
        found[item.column] = column.fill_null(pa.scalar(other, column.type))
    return pa.RecordBatch.from_pydict(found)


def test_what_is_there(site: Site, triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("fraud", headers=site.headers)
    assert triton.is_model_ready("fraud", "1", headers=site.headers)
    assert not triton.is_model_ready("fraud", "77", headers=site.headers)
    assert not triton.is_model_ready("nobody", headers=site.headers)
    server = triton.get_server_metadata(headers=site.headers)
    assert (server["name"], server["extensions"]) == ("millstream", ["binary_tensor_data"])
    model = triton.get_model_metadata("fraud", headers=site.headers)
    assert (model["name"], model["versions"]) == ("fraud", ["1"])
    assert model["inputs"] == [
        {"name": "inputs", "datatype": "FP32", "shape": [-1, len(site.model.signature.inputs)]}
    ]


def test_a_matrix_is_scored_as_it_was_published(
    site: Site, triton: InferenceServerClient, known: tuple[pa.RecordBatch, np.ndarray]
) -> None:
    rows, expected = known
    name = site.model.signature.output.name
    for version in ("", "1"):
        result = triton.infer(
            "fraud", [matrix_input(site, rows)], model_version=version, headers=site.headers, request_id="7"
        )
        np.testing.assert_allclose(result.as_numpy(name), expected, atol=1e-5)
        answer = result.get_response()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("fraud", "1", "7")
    for binary in (True, False):
        wanted = [InferRequestedOutput(name, binary_data=binary)]
        result = triton.infer("fraud", [matrix_input(site, rows)], outputs=wanted, headers=site.headers)
        np.testing.assert_allclose(result.as_numpy(name), expected, atol=1e-5)


@pytest.mark.parametrize(("number", "dtype"), [("FP32", np.float32), ("FP64", np.float64)])
@pytest.mark.parametrize("binary", [True, False])
def test_columns_of_numbers_and_texts(
    site: Site,
    triton: InferenceServerClient,
    known: tuple[pa.RecordBatch, np.ndarray],
    number: str,
    dtype: Any,
    binary: bool,
) -> None:
    """JSON has no NaN, and BYTES no null: what is missing in the golden rows is something else here."""
    rows = filled(site, known[0])
    expected = site.model.score(site.model.encode(rows))
    result = triton.infer("fraud", columns(site, rows, number, dtype, binary=binary), headers=site.headers)
    np.testing.assert_allclose(result.as_numpy(site.model.signature.output.name), expected, atol=1e-5)


def test_errors_come_as_the_client_knows_them(
    site: Site, triton: InferenceServerClient, known: tuple[pa.RecordBatch, np.ndarray]
) -> None:
    rows, _ = known
    good = matrix_input(site, rows)
    narrow = InferInput("inputs", [1, 3], "FP32")
    narrow.set_data_from_numpy(np.zeros((1, 3), np.float32))
    unknown = InferInput("nobody_knows", [1], "FP32")
    unknown.set_data_from_numpy(np.zeros(1, np.float32))
    number = InferInput("inputs", [1, 1], "BYTES")
    number.set_data_from_numpy(np.array([[b"x"]], np.object_))
    outputs = [InferRequestedOutput("nobody_knows")]
    # a new dictionary each time: the client writes into the one that it is given
    calls: list[tuple[str, str, Any]] = [
        ("401", "", lambda: triton.infer("fraud", [good])),
        ("401", "", lambda: triton.get_model_metadata("fraud")),
        ("401", "", lambda: triton.infer("fraud", [good], headers={"Authorization": "Bearer ms_x"})),
        ("404", "unknown model", lambda: triton.infer("nobody", [good], headers=site.headers)),
        ("404", "unknown model version", lambda: triton.infer("fraud", [good], "77", headers=site.headers)),
        ("404", "unknown model", lambda: triton.get_model_metadata("a b", headers=site.headers)),
        ("404", "no such path", lambda: triton.get_model_config("fraud", headers=site.headers)),
        ("404", "unknown model", lambda: triton.get_inference_statistics(headers=site.headers)),
        ("422", "is needed", lambda: triton.infer("fraud", [narrow], headers=site.headers)),
        ("422", "nobody_knows", lambda: triton.infer("fraud", [unknown], headers=site.headers)),
        ("422", "inputs", lambda: triton.infer("fraud", [number], headers=site.headers)),
        (
            "422",
            "the only output",
            lambda: triton.infer("fraud", [good], outputs=outputs, headers=site.headers),
        ),
        (
            "415",
            "gzip",
            lambda: triton.infer("fraud", [good], headers=site.headers, request_compression_algorithm="gzip"),
        ),
    ]
    for status, said, call in calls:
        with pytest.raises(InferenceServerException) as raised:
            call()
        assert (raised.value.status(), said in raised.value.message()) == (status, True), raised.value
    assert triton.infer("fraud", [good], headers=site.headers) is not None


def test_what_is_cut_off_or_states_a_wrong_length(
    site: Site, known: tuple[pa.RecordBatch, np.ndarray]
) -> None:
    body, length = InferenceServerClient.generate_request_body([matrix_input(site, known[0])])
    url, name = f"{site.url}/v2/models/fraud/infer", "Inference-Header-Content-Length"
    assert httpx.post(url, content=body, headers=site.headers | {name: str(length)}).status_code == 200
    for content, stated, status in (
        (body[:-1], length, 422), (body + b"x", length, 422), (body[:length], length, 422),
        (body, length - 1, 400), (body, length + 1, 400), (body, 10**15, 400), (body, 10**11, 400),
        (body, "-1", 400), (body, "", 400), (body, "1e3", 400), (b"", 0, 400), (body, None, 400),
    ):  # fmt: skip
        more = {} if stated is None else {name: str(stated)}
        answer = httpx.post(url, content=content, headers=site.headers | more)
        assert answer.status_code == status, (stated, answer.text)
        assert answer.json().keys() == {"error"}
    large = httpx.post(url, content=b" " * (site.settings.serving.max_body_bytes + 1), headers=site.headers)
    assert (large.status_code, large.json().keys()) == (413, {"error"})
