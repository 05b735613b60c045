"""The manifest of the balancer on a cluster has the rules of the local one, and Envoy takes it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.settings import Settings
from gateway.addresses import ClientAddress
from stack.balancer import Balancer, envoy_binary
from stack.balancer_rules import Address, cluster, listener, overload
from tests.stack_fixture import environment, services_required

MANIFEST = Path(__file__).resolve().parents[2] / "deploy/balancer/balancer.yaml"
Document = dict[str, Any]


@pytest.fixture
def documents() -> dict[tuple[str, str], Document]:
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture
def told(documents: dict[tuple[str, str], Document]) -> Iterator[Settings]:
    """What a gateway understands that is given the ConfigMap as its environment."""
    with environment(documents["ConfigMap", "millstream-gateway"]["data"]):
        yield Settings()


@pytest.fixture
def envoy(documents: dict[tuple[str, str], Document]) -> Document:
    found: Document = yaml.safe_load(documents["ConfigMap", "balancer"]["data"]["envoy.yaml"])
    return found


def named(envoy: Document, kind: str, name: str) -> Document:
    (found,) = [one for one in envoy["static_resources"][kind] if one["name"] == name]
    return dict(found)


def test_its_rules_are_those_of_the_local_stack(envoy: Document, told: Settings) -> None:
    assert named(envoy, "listeners", "public") == listener(told, Address("0.0.0.0", 8000))
    found = named(envoy, "clusters", "gateways")
    where = {"type": "STRICT_DNS", "load_assignment": found["load_assignment"]}
    assert found == cluster(where)
    assert envoy["overload_manager"] == overload()


def test_the_gateways_count_limits_by_the_address_that_it_saw(told: Settings) -> None:
    assert ClientAddress(told.limits.trusted_proxies).of("10.244.1.7", "198.51.100.7") == "198.51.100.7"


def test_it_finds_the_gateways_and_is_found(
    envoy: Document, told: Settings, documents: dict[tuple[str, str], Document]
) -> None:
    gateways = documents["Service", "gateways"]["spec"]
    assert gateways["clusterIP"] == "None"
    (group,) = named(envoy, "clusters", "gateways")["load_assignment"]["endpoints"]
    (only,) = group["lb_endpoints"]
    assert only["endpoint"]["address"]["socket_address"] == {
        "address": "gateways", "port_value": gateways["ports"][0]["port"],
    }  # fmt: skip
    assert told.gateway.port == gateways["ports"][0]["port"]
    assert told.gateway.host == "0.0.0.0"
    pod = documents["Deployment", "balancer"]["spec"]["template"]
    public = documents["Service", "millstream"]["spec"]
    assert public["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name, listening in (("http", "public"), ("told", "told")):
        address = named(envoy, "listeners", listening)["address"]["socket_address"]
        assert ports[name] == address["port_value"]
    assert public["ports"][0]["targetPort"] == "http"


def test_an_answer_under_way_outlives_a_rollout(
    documents: dict[tuple[str, str], Document], told: Settings
) -> None:
    longest_s = max(told.asking.longest_wait_s, told.llm.wait_s) + told.balancer.grace_s
    pod = documents["Deployment", "balancer"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain_s = float(dict(zip(container["args"][::2], container["args"][1::2], strict=True))["--drain-time-s"])
    assert longest_s <= drain_s < pod["terminationGracePeriodSeconds"]


def test_nobody_from_outside_can_change_it(envoy: Document) -> None:
    assert envoy["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    (chain,) = named(envoy, "listeners", "told")["filter_chains"]
    (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    allowed = [(route["match"]["path"], route["match"]["headers"]) for route in host["routes"]]
    only_get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    assert allowed == [("/ready", only_get), ("/metrics", only_get)]


def test_envoy_takes_it(documents: dict[tuple[str, str], Document], tmp_path: Path) -> None:
    binary = envoy_binary()
    if binary is None:
        if services_required():
            pytest.fail("there is no Envoy, and MILLSTREAM_REQUIRE_SERVICES=1")
        pytest.skip("NOT TESTED: there is no Envoy for this platform")
    file = tmp_path / "envoy.yaml"
    file.write_text(documents["ConfigMap", "balancer"]["data"]["envoy.yaml"])
    (container,) = documents["Deployment", "balancer"]["spec"]["template"]["spec"]["containers"]
    arguments = [str(file) if word == "/etc/envoy/envoy.yaml" else word for word in container["args"]]
    shown = subprocess.run(
        [binary, "--mode", "validate", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == "", "a warning"
    assert Balancer(Settings()).version() == f"Envoy {container['image'].rpartition(':v')[2]}"
