"""Prometheus metrics of this process. Every name starts with `millstream_`; units are in the name.

One registry per process; modules declare their metrics once with `counter`, `gauge`, `histogram`.
"""

import os
from collections.abc import Sequence
from typing import Any, Self, cast

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics import MetricWrapperBase

REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)

LATENCY_MS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 200, 350, 500, 1000, 2500, 10_000)


class _Labelled(MetricWrapperBase):
    """A metric whose `labels` takes a series that is there without its lock: a third of the time."""

    def labels(self, *values: Any, **named: Any) -> Self:
        found = self._metrics.get(values)
        return super().labels(*values, **named) if found is None else cast(Self, found)


class Counter(_Labelled, prometheus_client.Counter):
    pass


class Gauge(_Labelled, prometheus_client.Gauge):
    pass


class Histogram(_Labelled, prometheus_client.Histogram):
    pass


RESTARTS = Gauge(
    "millstream_restarts",
    "How often the supervisor has restarted this process",
    registry=REGISTRY,
)
RESTARTS.set(float(os.environ.get("MILLSTREAM_RESTARTS", "0")))


def counter(name: str, doc: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(f"millstream_{name}", doc, labelnames=labels, registry=REGISTRY)


def gauge(name: str, doc: str, labels: Sequence[str] = ()) -> Gauge:
    return Gauge(f"millstream_{name}", doc, labelnames=labels, registry=REGISTRY)


def histogram(
    name: str, doc: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_MS
) -> Histogram:
    """A histogram; the default buckets are milliseconds, so end the name in `_ms`."""
    return Histogram(f"millstream_{name}", doc, labelnames=labels, buckets=buckets, registry=REGISTRY)


def exposition() -> bytes:
    """The text form that Prometheus scrapes (content type `text/plain; version=0.0.4`)."""
    return generate_latest(REGISTRY)
