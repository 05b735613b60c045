"""The dashboard, as it is declared: `python deploy/grafana/make.py > dashboards/millstream.json`, beside it.

A test holds the committed file against this, and each query against the metrics that our processes have.
"""

import json
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA = 42  # of dashboards, as of Grafana 12 and 13; older ones take it too
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
OF = '{instance=~"$instance"}'
OF_PIPELINE = '{instance=~"$instance", pipeline=~"$pipeline"}'


@dataclass(frozen=True)
class Panel:
    """One graph: (query, legend) pairs."""

    title: str
    about: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def rate(metric: str, by: str, of: str = OF) -> str:
    return f"sum by ({by}) (rate(millstream_{metric}{of}[$__rate_interval]))"


def quantile(metric: str, by: str = "", of: str = OF, q: float = 0.99) -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q:g}, {rate(f'{metric}_bucket', labels, of)})"


def rates(title: str, about: str, metric: str, by: str, *, of: str = OF, unit: str = "ops") -> Panel:
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return Panel(title, about, unit, ((rate(metric, by, of), legend),))


def times(title: str, about: str, metric: str, by: str = "", *, of: str = OF, unit: str = "ms") -> Panel:
    legend = f" {{{{{by}}}}}" if by else ""
    return Panel(
        title,
        about,
        unit,
        tuple((quantile(metric, by, of, q), f"p{q * 100:g}{legend}") for q in (0.5, 0.99)),
    )


def gauges(title: str, about: str, unit: str, *metrics: tuple[str, str, str]) -> Panel:
    """metrics: (name, labels to sum by, legend)."""
    return Panel(
        title,
        about,
        unit,
        tuple((f"sum by ({by}) (millstream_{name}{OF})", legend) for name, by, legend in metrics),
    )


REQUESTS = "gateway_requests_total"
SERVER_ERRORS = '{instance=~"$instance", status=~"5.."}'
REFUSALS = '{instance=~"$instance", status=~"401|403|429"}'
P = OF_PIPELINE

ROWS: dict[str, tuple[Panel, ...]] = {
    "Gateway": (
        rates("Requests", "By route.", REQUESTS, "route"),
        Panel(
            "Errors",
            "Answers of 500 and above, and their share of all.",
            "ops",
            (
                (rate(REQUESTS, "status", SERVER_ERRORS), "{{status}}"),
                (
                    f"sum(rate(millstream_{REQUESTS}{SERVER_ERRORS}[$__rate_interval])) / "
                    f"sum(rate(millstream_{REQUESTS}{OF}[$__rate_interval]))",
                    "share",
                ),
            ),
        ),
        times("Latency", "From the head of a request to its answer.", "gateway_request_ms", "route"),
        rates("Limited", "Refused with 429, by the limit.", "gateway_limited_total", "limit"),
        Panel(
            "Load",
            "Requests under way, how many may be, and those shed (503).",
            "short",
            (
                (f"sum by (instance) (millstream_gateway_requests_open{OF})", "open {{instance}}"),
                (f"sum by (instance) (millstream_gateway_requests_limit{OF})", "limit {{instance}}"),
                (rate("gateway_shed_total", "instance"), "shed/s {{instance}}"),
            ),
        ),
        Panel(
            "Caches",
            "Asks by what answered them, and the caches below.",
            "ops",
            (
                (rate("gateway_cached_asks_total", "pipeline, level", P), "{{pipeline}} {{level}}"),
                (rate("cache_answers_total", "cache, where"), "{{cache}} {{where}}"),
                (rate("cache_stores_lost_total", "cache"), "{{cache}} not stored"),
            ),
        ),
        rates(
            "Events accepted", "That Kafka acknowledged.", "gateway_events_accepted_total", "pipeline", of=P
        ),
        rates("Events refused", "By problem.", "gateway_events_refused_total", "pipeline, code", of=P),
        times("Publishing", "From valid to acknowledged by Kafka.", "gateway_publish_ms"),
        rates("Asks", "By how they ended.", "gateway_asks_total", "pipeline, outcome", of=P),
        gauges(
            "Asks waiting", "For their reply.", "short", ("gateway_asks_waiting", "instance", "{{instance}}")
        ),
        times("Cached asks", "By what answered.", "gateway_cached_ask_ms", "level"),
    ),
    "Push": (
        gauges(
            "Sockets",
            "Open WebSockets and event streams, and their subscriptions.",
            "short",
            ("gateway_sockets", "instance", "sockets {{instance}}"),
            ("gateway_subscriptions", "instance", "subscriptions {{instance}}"),
        ),
        rates(
            "Pushed", "Events encoded, once for all subscribers.", "gateway_frames_pushed_total", "channel"
        ),
        rates("Left out", "Of queues that were full, by policy.", "gateway_frames_left_out_total", "policy"),
        rates("Closed", "Sockets, by the code of their end.", "gateway_sockets_closed_total", "code"),
        gauges(
            "Lag", "Behind the topics' ends.", "short", ("gateway_push_lag_records", "channel", "{{channel}}")
        ),
        Panel(
            "Not pushed",
            "Repeats, and what cannot be read.",
            "ops",
            (
                (rate("gateway_repeats_dropped_total", "channel"), "repeat {{channel}}"),
                (rate("gateway_push_unreadable_total", "channel"), "unreadable {{channel}}"),
            ),
        ),
    ),
    "Workers": (
        rates("Records scored", "By decision.", "worker_records_total", "pipeline, decision", of=P),
        times("Batch size", "Records in a batch.", "worker_batch_records", "pipeline", of=P, unit="short"),
        times("Batch time", "Decoded to handed to Kafka.", "worker_batch_ms", "pipeline", of=P),
        times("Queue", "On Kafka to its batch, the oldest of each.", "worker_queue_ms", "pipeline", of=P),
        Panel(
            "Lag",
            "Behind the ends of the topics: workers by pipeline, sinks by name.",
            "short",
            (
                (f"sum by (pipeline) (millstream_worker_lag_records{P})", "worker {{pipeline}}"),
                (f"sum by (sink) (millstream_writer_lag_records{OF})", "sink {{sink}}"),
            ),
        ),
        Panel(
            "Failovers",
            "Another version took over, batches held back, answers by level.",
            "ops",
            (
                (rate("worker_failovers_total", "pipeline", P), "failover {{pipeline}}"),
                (rate("worker_held_total", "pipeline, cause", P), "held {{pipeline}} {{cause}}"),
                (rate("fallback_answers_total", "chain, level"), "{{chain}} {{level}}"),
            ),
        ),
        rates("Answers", "Requests that ended, by state.", "answering_ended_total", "pipeline, state", of=P),
        times("Answering", "From taken up to ended.", "answering_work_ms", "pipeline", of=P),
        times(
            "Asked together", "Records in a call.", "answering_batch_records", "pipeline", of=P, unit="short"
        ),
        rates("Written", "Records made durable, by sink.", "writer_records_total", "sink"),
        times("Writing", "From decoded to durable.", "writer_write_ms", "sink"),
        Panel(
            "Writer in trouble",
            "Sinks that hold back, and attempts that failed.",
            "short",
            (
                (f"sum by (sink) (millstream_writer_holding{OF})", "holding {{sink}}"),
                (rate("writer_failures_total", "sink, code"), "failed/s {{sink}} {{code}}"),
            ),
        ),
    ),
    "Features": (
        rates("Read", "Entities, by whether they were there.", "gateway_feature_reads_total", "view, found"),
        times("Age", "The oldest entity of a read.", "gateway_feature_age_ms", "view"),
        rates("Late", "Records too late for their windows.", "worker_late_total", "pipeline, level", of=P),
        Panel(
            "Flink",
            "1 while the job runs; submissions tell of restarts.",
            "short",
            (
                (f"min by (pipeline) (millstream_flink_job_running{P})", "running {{pipeline}}"),
                (
                    f"sum by (pipeline, from) (increase(millstream_flink_submissions_total{P}[1h]))",
                    "submitted in 1 h {{pipeline}} from {{from}}",
                ),
            ),
        ),
        rates("Windowed values", "Given to the store.", "online_packed_writes_total", "view, outcome"),
        Panel(
            "Unreadable",
            "Values in the online store that read as missing.",
            "ops",
            (
                (rate("online_packed_unreadable_total", "view, reason"), "{{view}} {{reason}}"),
                (rate("online_rolling_damaged_total", "view"), "{{view}} damaged"),
            ),
        ),
    ),
    "Model versions": (
        Panel(
            "In service",
            "The share of records that each version is given, in the mean of the processes.",
            "percentunit",
            (
                (
                    f"avg by (pipeline, version) (millstream_worker_version_share{P})",
                    "{{pipeline}} {{version}}",
                ),
            ),
        ),
        rates("Records", "By version and outcome.", "worker_version_records_total", "version, outcome", of=P),
        Panel(
            "Changes",
            "Versions put in service, and refused.",
            "short",
            (
                (
                    f"sum by (pipeline) (increase(millstream_worker_model_swapped_total{P}[5m]))",
                    "in service {{pipeline}}",
                ),
                (
                    f"sum by (pipeline) (increase(millstream_worker_model_refused_total{P}[5m]))",
                    "refused {{pipeline}}",
                ),
            ),
        ),
        rates("Served directly", "Over HTTP, by status.", "serving_requests_total", "route, status"),
        times("Model calls", "Of those that are served directly.", "infer_model_ms", "version"),
        times("Rows in a call", "Of the same.", "infer_rows", "version", unit="short"),
    ),
    "Language models": (
        Panel(
            "Tokens",
            "Generated by all servers.",
            "ops",
            ((rate("llm_tokens_total", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Speed of an answer",
            "Tokens a second from the first on; the goal is at least 10.",
            "short",
            (
                (quantile("llm_tokens_per_second", q=0.5), "median"),
                (quantile("llm_tokens_per_second", q=0.01), "slowest hundredth"),
            ),
        ),
        rates("Answers", "By outcome.", "llm_answers_total", "outcome"),
        times("Steps", "Of an answer.", "llm_answer_step_ms", "step"),
        rates("Failures", "Calls that a server failed.", "llm_server_failures_total", "server, kind"),
        times("Suggestions", "To the first of them.", "gateway_suggestion_ms", "source"),
    ),
    "Dead letters": (
        rates("Workers", "By stage and code.", "worker_dead_letters_total", "pipeline, stage, code", of=P),
        rates("Writers", "Dead-lettered, or left to another reader.", "writer_refused_total", "sink, code"),
        Panel(
            "Error rates",
            "Shares of calls that failed, over a minute.",
            "percentunit",
            (
                (
                    "max by (pipeline, operator, code) (millstream_operator_error_rate"
                    '{instance=~"$instance", pipeline=~"$pipeline", window="60s"})',
                    "{{pipeline}} {{operator}} {{code}}",
                ),
            ),
        ),
    ),
    "Security": (
        rates("Refused", "401: who, 403: may not, 429: too much.", REQUESTS, "status", of=REFUSALS),
        rates("Problems", "All that ended with one, by its code.", "gateway_problems_total", "code"),
        rates("Limits counted alone", "While Redis was away.", "gateway_limits_local_total", "limit"),
    ),
    "Processes": (
        gauges("Restarts", "By the supervisor.", "short", ("restarts", "instance", "{{instance}}")),
        Panel(
            "Memory",
            "",
            "bytes",
            ((f"sum by (instance) (process_resident_memory_bytes{OF})", "{{instance}}"),),
        ),
        Panel(
            "Processors",
            "Seconds a second.",
            "short",
            ((f"sum by (instance) (rate(process_cpu_seconds_total{OF}[$__rate_interval]))", "{{instance}}"),),
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(_row(len(panels) + 1, title, top))
        top += 1
        for number, panel in enumerate(row):
            place = {
                "h": HEIGHT,
                "w": WIDTH,
                "x": number % COLUMNS * WIDTH,
                "y": top + number // COLUMNS * HEIGHT,
            }
            panels.append(_graph(len(panels) + 1, panel, place))
        top += -(-len(row) // COLUMNS) * HEIGHT
    return {
        "uid": "millstream",
        "title": "Millstream",
        "tags": ["millstream"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_source(), _choice("instance", "process_start_time_seconds"), _pipelines()]},
        "panels": panels,
    }


def _row(id: int, title: str, top: int) -> dict[str, Any]:
    return {
        "id": id, "type": "row", "title": title, "collapsed": False, "panels": [],
        "gridPos": {"h": 1, "w": 24, "x": 0, "y": top},
    }  # fmt: skip


def _graph(id: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": id,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(65 + number), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _pipelines() -> dict[str, Any]:
    return _choice("pipeline", "millstream_worker_records_total")


def _choice(label: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {label})"
    return {
        "name": label, "type": "query", "label": label.capitalize(), "datasource": SOURCE,
        "query": {"qryType": 1, "query": query, "refId": label}, "definition": query,
        "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
