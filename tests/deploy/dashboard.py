"""The committed dashboard as its queries, and what is wrong with one where there are these metrics."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.deploy import promql
from tests.deploy.promql import Aggregation, Binary, Call, Node, Number, Selector, Wrong

FOLDER = Path(__file__).resolve().parents[2] / "deploy/grafana"
FILE = FOLDER / "dashboards/millstream.json"
TARGET = frozenset({"instance", "job"})
"""Labels that Prometheus adds to all that it scrapes."""
RATED = frozenset({"rate", "increase"})
LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")
VARIABLE = re.compile(r"^label_values\((?P<metric>\w+), (?P<label>\w+)\)$")


@dataclass(frozen=True)
class Series:
    """The series of one name. kind: of its family, `counter`, `gauge` or `histogram`. labels: None where
    there is no sample yet that would tell them. values: (label, value) of the samples."""

    kind: str
    labels: frozenset[str] | None
    values: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Query:
    panel: str
    text: str
    legend: str

    def __str__(self) -> str:
        return f"{self.panel}: {self.text}"


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def queries() -> list[Query]:
    return [
        Query(panel["title"], target["expr"], target["legendFormat"])
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


def series(*expositions: str) -> dict[str, Series]:
    """What processes expose: the series by name, those too of which there is no sample yet."""
    found: dict[str, Series] = {}
    for text in expositions:
        for family in text_string_to_metric_families(text):
            names = {
                "counter": (f"{family.name}_total",),
                "histogram": tuple(f"{family.name}_{end}" for end in ("bucket", "sum", "count")),
            }.get(family.type, (family.name,))
            for name in names:
                found.setdefault(name, Series(family.type, None))
            for sample in family.samples:
                if sample.name in found:
                    before = found[sample.name]
                    labels = frozenset(sample.labels) | (before.labels or frozenset())
                    values = before.values | frozenset(sample.labels.items())
                    found[sample.name] = Series(family.type, labels, values)
    return found


def problems(query: Query, metrics: Mapping[str, Series]) -> list[str]:
    """Everything that is wrong with a query, and with its legend."""
    try:
        node = promql.parse(query.text)
    except Wrong as error:
        return [str(error)]
    found = list(_unknown(node, metrics)) + list(_misused(node, metrics))
    if not found:
        told = set(LEGEND.findall(query.legend))
        found += [f"{{{{{name}}}}} is no label of the result" for name in told - _labels(node, metrics)]
    return found


def _unknown(node: Node, metrics: Mapping[str, Series]) -> Iterator[str]:
    for one in promql.selectors(node):
        known = metrics.get(one.metric)
        if known is None:
            yield f"no metric {one.metric}"
            continue
        if known.labels is not None:
            for label, sign, value in one.matchers:
                if label not in known.labels | TARGET:
                    yield f"{one.metric} has no label {label}"
                elif sign == "=" and known.values and (label, value) not in known.values:
                    yield f"{one.metric} has nothing of {label} {value!r}"


def _misused(node: Node, metrics: Mapping[str, Series], *, rated: bool = False) -> Iterator[str]:
    """A gauge of which a rate is taken, a counter of which none is, buckets without `le`, labels that are
    not there."""
    if isinstance(node, Selector):
        kind = metrics[node.metric].kind if node.metric in metrics else "unknown"
        if node.ranged and not rated:
            yield f"a range of {node.metric} that nothing is made of"
        if rated and kind == "gauge":
            yield f"the rate of {node.metric}, a gauge"
        if not rated and kind in ("counter", "histogram"):
            yield f"{node.metric} counts from the start of its process: take its rate"
    elif isinstance(node, Call):
        for argument in node.arguments:
            yield from _misused(argument, metrics, rated=node.function in RATED)
        if node.function == "histogram_quantile":
            share, of = node.arguments
            if not (isinstance(share, Number) and 0 < share.value < 1):
                yield "a quantile is between 0 and 1"
            if not all(one.metric.endswith("_bucket") for one in promql.selectors(of)):
                yield "a quantile of what has no buckets"
            if "le" not in _labels(of, metrics):
                yield "the buckets have lost their bounds (le)"
    elif isinstance(node, Aggregation):
        yield from _misused(node.of, metrics)
        there = _labels(node.of, metrics)
        yield from (f"nothing there has the label {label}" for label in node.by or () if label not in there)
    elif isinstance(node, Binary):
        yield from _misused(node.left, metrics)
        yield from _misused(node.right, metrics)
        sides = [side for side in (node.left, node.right) if not isinstance(side, Number)]
        if len(sides) == 2 and _labels(node.left, metrics) != _labels(node.right, metrics):
            yield "the sides have other labels: nothing matches"


def _labels(node: Node, metrics: Mapping[str, Series]) -> frozenset[str]:
    """Of the result; of what has no sample yet any label may be, as the query names it."""
    if isinstance(node, Selector):
        known = metrics.get(node.metric)
        return (known.labels if known and known.labels is not None else _Any()) | TARGET
    if isinstance(node, Aggregation):
        return frozenset(node.by or ())
    if isinstance(node, Call):
        labels = _labels(node.arguments[-1 if node.function == "histogram_quantile" else 0], metrics)
        return labels - {"le"} if node.function == "histogram_quantile" else labels
    if isinstance(node, Binary):
        return _labels(node.right if isinstance(node.left, Number) else node.left, metrics)
    return frozenset()


class _Any(frozenset[str]):
    """Has every label."""

    def __contains__(self, label: object) -> bool:
        return True

    def __or__(self, other: Any) -> "_Any":
        return self
