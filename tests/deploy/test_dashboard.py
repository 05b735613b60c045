"""The committed dashboard: as it is declared, whole, and every query about a metric that we declare."""

import importlib
import json
import runpy
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from core.telemetry.metrics import REGISTRY
from tests.deploy import promql
from tests.deploy.dashboard import FILE, FOLDER, VARIABLE, Query, Series, dashboard, problems, queries

ROOT = FOLDER.parents[1]
METRICS = "from core.telemetry.metrics import"
CODE = ("core", "operators", "features", "models", "pipelines", "jobs", "gateway")
KINDS = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
ENDS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
PROCESS = ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds")


@pytest.fixture(scope="module")
def declared() -> dict[str, Series]:
    """Every metric of our code by the names of its series, and those of the process' collector."""
    for name in CODE:
        for file in sorted((ROOT / name).rglob("*.py")):
            if METRICS in file.read_text():
                importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    found = {name: Series("counter" if name.endswith("_total") else "gauge", frozenset()) for name in PROCESS}
    for metric in set(REGISTRY._collector_to_names):
        kind = next((name for kind, name in KINDS.items() if isinstance(metric, kind)), None)
        if kind is None:
            continue
        labels = frozenset(metric._labelnames)
        for end in ENDS[kind]:
            own = labels | {"le"} if end == "_bucket" else labels
            found[f"{metric._name}{end}"] = Series(kind, own)
    return found


def test_it_is_as_it_is_declared() -> None:
    made = runpy.run_path(str(FOLDER / "make.py"))["dashboard"]()
    assert json.loads(FILE.read_text()) == made, "make it again: see deploy/grafana/make.py"


def test_it_can_be_taken_by_any_grafana() -> None:
    found = dashboard()
    text = FILE.read_text()
    assert "localhost" not in text
    assert "127.0.0.1" not in text
    assert found["schemaVersion"] >= 42
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids))
    sources = {json.dumps(one["datasource"]) for one in _with_a_source(found)}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    places = [panel["gridPos"] for panel in found["panels"]]
    cells = [
        (x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells)), "panels lie on each other"
    assert max(x for x, _ in cells) < 24


def _with_a_source(found: dict[str, object]) -> Iterator[dict[str, object]]:
    panels: list[dict[str, list[dict[str, object]]]] = found["panels"]  # type: ignore[assignment]
    for panel in panels:
        if "targets" in panel:
            yield panel
            yield from panel["targets"]


def test_every_query_is_about_metrics_that_are_declared(declared: dict[str, Series]) -> None:
    wrong = {str(query): found for query in queries() if (found := problems(query, declared))}
    assert not wrong
    assert len(queries()) > 60


def test_the_choices_are_of_metrics_that_are_declared(declared: dict[str, Series]) -> None:
    asked = [one for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    assert {one["name"] for one in asked} == {"instance", "pipeline"}
    for one in asked:
        found = VARIABLE.match(one["query"]["query"])
        assert found is not None
        labels = declared[found["metric"]].labels
        assert labels is not None
        assert found["label"] in labels | {"instance"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sum by (route) (rate(millstream_gateway_request_total[5m]))", "no metric"),
        ("sum by (path) (rate(millstream_gateway_requests_total[5m]))", "has the label path"),
        ('rate(millstream_gateway_requests_total{path="/"}[5m])', "has no label path"),
        ("millstream_gateway_requests_total", "take its rate"),
        ("rate(millstream_gateway_sockets[5m])", "a gauge"),
        ("histogram_quantile(0.99, sum by (route) (rate(millstream_gateway_request_ms_bucket[5m])))", "le"),
        ("histogram_quantile(99, rate(millstream_gateway_request_ms_bucket[5m]))", "between 0 and 1"),
        ("histogram_quantile(0.9, rate(millstream_gateway_request_ms_sum[5m]))", "no buckets"),
        ("sum(rate(millstream_gateway_requests_total[5m])", "wanted"),
        ("rate(millstream_gateway_requests_total)", "takes r"),
        ("millstream_gateway_sockets[5m]", "nothing is made of"),
        ("rates(millstream_gateway_requests_total[5m])", "no function"),
        ("millstream_gateway_sockets / sum(millstream_gateway_subscriptions)", "nothing matches"),
        ("sum(rate(millstream_gateway_requests_total[5 minutes]))", "no PromQL"),
    ],
)
def test_a_query_that_is_wrong_is_found(declared: dict[str, Series], text: str, told: str) -> None:
    (found, *_) = problems(Query("a panel", text, ""), declared)
    assert told in found


def test_a_legend_names_labels_of_the_result(declared: dict[str, Series]) -> None:
    query = Query("a panel", "sum by (route) (rate(millstream_gateway_requests_total[5m]))", "{{status}}")
    assert problems(query, declared) == ["{{status}} is no label of the result"]


def test_operators_bind_as_in_promql() -> None:
    assert promql.parse("1 + 2 * 3") == promql.parse("1 + (2 * 3)")
    assert promql.parse("1 - 2 - 3") == promql.parse("(1 - 2) - 3")


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    (provider,) = yaml.safe_load((FOLDER / "provisioning/dashboards/millstream.yaml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"].endswith("/dashboards")
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    scraping = yaml.safe_load((FOLDER.parent / "prometheus/prometheus.yaml").read_text())
    assert scraping["global"]["scrape_interval"] == source["jsonData"]["timeInterval"]
    assert [one["job_name"] for one in scraping["scrape_configs"]] == ["millstream", "millstream-here"]
