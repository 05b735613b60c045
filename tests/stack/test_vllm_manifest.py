"""The manifest of the LLM servers on a cluster says the same to vLLM and to Millstream."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.settings import Llm, Settings
from tests.stack_fixture import environment

MANIFEST = Path(__file__).resolve().parents[2] / "deploy/vllm/vllm.yaml"
Document = dict[str, Any]


@pytest.fixture
def documents() -> dict[str, Document]:
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture
def told(documents: dict[str, Document]) -> Iterator[Llm]:
    """What a process of ours understands that is given the ConfigMap as its environment."""
    with environment(documents["ConfigMap"]["data"]):
        yield Settings().llm


def flags(documents: dict[str, Document]) -> dict[str, str]:
    (container,) = documents["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    return {name: value for name, _, value in (one[2:].partition("=") for one in container["args"])}


def test_every_server_is_known_by_a_name_of_its_own(documents: dict[str, Document], told: Llm) -> None:
    servers, service = documents["StatefulSet"]["spec"], documents["Service"]
    assert service["spec"]["clusterIP"] == "None"
    assert servers["serviceName"] == service["metadata"]["name"]
    name, port = documents["StatefulSet"]["metadata"]["name"], flags(documents)["port"]
    assert told.addresses == tuple(
        (flags(documents)["served-model-name"], f"http://{name}-{number}.{servers['serviceName']}:{port}")
        for number in range(servers["replicas"])
    )


def test_slots_and_context_are_the_servers(documents: dict[str, Document], told: Llm) -> None:
    assert flags(documents)["max-num-seqs"] == str(told.slots)
    assert flags(documents)["max-model-len"] == str(told.context)
    assert told.connections > told.slots
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > told.wait_s


def test_it_says_nothing_that_no_setting_takes(documents: dict[str, Document], told: Llm) -> None:
    names = {f"MILLSTREAM_LLM__{name.upper()}" for name in type(told).model_fields}
    assert set(documents["ConfigMap"]["data"]) <= names
