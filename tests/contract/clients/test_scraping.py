"""Prometheus' own parser reads what every process shows."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stack.local import Stack
from tests.contract.clients.conftest import Site

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
PROCESSES = {
    "gateway": "millstream_gateway_requests",
    "serving": "millstream_serving_requests",
    "embeddings": "millstream_embedding_requests",
    "fraud-worker": "",
    "fraud-writer": "",
}


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_can_be_scraped(site: Site, name: str) -> None:
    port = Stack(site.settings).unit(name).probe_port
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families
    assert not PROCESSES[name] or PROCESSES[name] in families
    for family in families.values():
        assert family.type != "unknown", family.name
        assert len({(one.name, tuple(sorted(one.labels.items()))) for one in family.samples}) == len(
            family.samples
        )


def test_what_clients_did_can_be_counted(site: Site) -> None:
    """By route, as a template: never by what a client puts into its path."""

    def counted() -> float:
        answer = httpx.get(f"{site.url}/metrics", timeout=10)
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if sample.name == "millstream_gateway_requests_total" and sample.labels == wanted:
                    return sample.value
        return 0.0

    wanted = {"route": "/v2/models/{model}", "status": "404"}
    before = counted()
    for name in ("a", "b", "c"):
        assert httpx.get(f"{site.url}/v2/models/{name}", headers=site.headers, timeout=10).status_code == 404
    assert counted() == before + 3
