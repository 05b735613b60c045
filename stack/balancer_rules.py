"""What the balancer does with a request, as Envoy's configuration: here, and in `deploy/balancer`.

- A gateway is used while its `/ready` says so, looked at each second. One that fails requests in a row is
  taken out at once, and comes back with its next good `/ready`; never more than half of them are out for
  that. Where none is ready all are asked: they say best why not.
- A request that is idempotent by its method (RFC 9110), or has an `Idempotency-Key`, is sent once more, to
  another gateway, after a 503, a connection that broke, or no answer in time: as long as no byte of an answer
  was passed on, and only if its body was small enough to be kept. Any other is sent again only where no
  connection was made at all, so that nothing of it was seen.
- WebSockets and server-sent events pass; no time limits them but that of silence.
- What no gateway answered is answered with a problem document of the gateways' own form.

Envoy counts it all: `cluster.gateways.upstream_rq_retry`, `..._retry_success`, `membership_healthy`,
`health_check.failure`, `outlier_detection.ejections_enforced_total`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from core.settings import Settings

Json = dict[str, object]

CHECK_S = 1.0
FAILURES_IN_A_ROW = 3  # connections refused or broken, answers that did not come, 503
KEPT_BODY_BYTES = 1 << 20
BUFFER_BYTES = 64 << 10  # of a connection, so that a slow client is slow for its gateway too
MOST_CONNECTIONS = 10_000
HEADERS_S = 10.0  # as the gateways have it
BODY_S = 30.0
SILENCE_S = 300.0  # sockets are pinged by their gateway each 30 s
IDLE_S = 5.0  # shorter than the gateways', so that none closes a connection under a request
WAITING = (
    "/api/v1/pipelines/[^/]+/infer|/api/v1/generate|/v1/(chat/completions|embeddings)|/api/v1/models(/.*)?"
    "|/v2/.*"
)
"""Paths whose handlers may wait long for an answer of somebody else."""
IDEMPOTENT = "GET|HEAD|OPTIONS|PUT|DELETE"

_TYPES = "type.googleapis.com/envoy"


class Address(NamedTuple):
    host: str
    port: int


def configuration(
    settings: Settings,
    *,
    listen: Address,
    gateways: Iterable[Address],
    admin: Address,
    tls: tuple[Path, Path] | None = None,
) -> Json:
    """The whole of Envoy's configuration, for gateways at fixed addresses. tls: certificate and key of the
    public address, PEM files."""
    return {
        "admin": {"address": _socket(admin)},
        "overload_manager": overload(),
        "static_resources": {
            "listeners": [listener(settings, listen, tls)],
            "clusters": [cluster({"type": "STATIC", "load_assignment": endpoints(gateways)})],
        },
    }


def listener(settings: Settings, listen: Address, tls: tuple[Path, Path] | None = None) -> Json:
    """The public address."""
    manager: Json = {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "public",
        "codec_type": "HTTP1",
        "use_remote_address": True,
        # nobody is a friend, not even on loopback, who could say by headers how often to try again
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "server_header_transformation": "PASS_THROUGH",
        "preserve_external_request_id": True,
        "request_id_extension": {
            "typed_config": {
                "@type": f"{_TYPES}.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,  # a client's id stays as it is
            }
        },
        "normalize_path": False,  # the gateway decides what a path means
        "max_request_headers_kb": 64,
        "common_http_protocol_options": {"idle_timeout": _seconds(60.0), "max_headers_count": 100},
        "request_headers_timeout": _seconds(HEADERS_S),
        "request_timeout": _seconds(BODY_S + settings.balancer.grace_s),
        "stream_idle_timeout": _seconds(SILENCE_S),
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "local_reply_config": local_replies(),
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "gateways",
                    "domains": ["*"],
                    "request_body_buffer_limit": KEPT_BODY_BYTES,
                    "routes": routes(settings),
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
    }
    return {
        "name": "public",
        "address": _socket(listen),
        "enable_reuse_port": False,  # a port that is taken is told, not shared
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [
            {
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                ],
                **({"transport_socket": _transport(*tls)} if tls else {}),
            }
        ],
    }


def _transport(certificate: Path, private_key: Path) -> Json:
    """TLS of the public address."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["http/1.1"],
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(certificate)},
                        "private_key": {"filename": str(private_key)},
                    }
                ],
            },
        },
    }


def routes(settings: Settings) -> list[Json]:
    """The first that fits counts. All go to the gateways; they differ in when a request is sent again."""
    waits_s = max(settings.asking.longest_wait_s, settings.llm.wait_s, settings.rollout.answer_s)
    grace_s = settings.balancer.grace_s
    found: list[Json] = []
    for path, answer_s in (
        ({"safe_regex": {"regex": WAITING}}, waits_s + grace_s),
        ({"prefix": "/"}, settings.gateway.publish_timeout_s + grace_s),
    ):
        bounded = {"num_retries": 1, "per_try_timeout": _seconds(answer_s), **_ANOTHER}  # until one begins
        again = {"retry_on": "reset,retriable-status-codes", "retriable_status_codes": [503], **bounded}
        unseen = {"retry_on": "connect-failure", **bounded}
        for headers, policy in (
            ([{"name": ":method", "string_match": {"safe_regex": {"regex": IDEMPOTENT}}}], again),
            ([{"name": "idempotency-key", "present_match": True}], again),
            ([], unseen),
        ):
            match = {**path, "headers": headers} if headers else path
            action = {"cluster": "gateways", "timeout": _seconds(0.0), "retry_policy": policy}
            found.append({"match": match, "route": action})
    return found


_ANOTHER: Json = {
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": f"{_TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": 16,
}


def cluster(where: Json) -> Json:
    """The gateways. where: how Envoy finds them."""
    protocol: Json = {
        "@type": f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": _seconds(IDLE_S)},
    }
    return {
        "name": "gateways",
        **where,
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": _seconds(1.0),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol
        },
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 1},
            "update_merge_window": _seconds(0.0),  # a second in which one that is back is not used, else
        },
        "health_checks": [
            {
                "http_health_check": {"path": "/ready"},
                "interval": _seconds(CHECK_S),
                "no_traffic_interval": _seconds(CHECK_S),
                "timeout": _seconds(CHECK_S),
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
            }
        ],
        "outlier_detection": {
            "interval": _seconds(CHECK_S),
            "base_ejection_time": _seconds(5.0),
            "max_ejection_time": _seconds(30.0),
            "max_ejection_percent": 50,
            "consecutive_gateway_failure": FAILURES_IN_A_ROW,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": MOST_CONNECTIONS,
                    "max_pending_requests": MOST_CONNECTIONS,
                    "max_requests": MOST_CONNECTIONS,
                    "max_retries": MOST_CONNECTIONS,
                }
            ]
        },
    }


def endpoints(gateways: Iterable[Address]) -> Json:
    return {
        "cluster_name": "gateways",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(one)}} for one in gateways]}],
    }


def overload() -> Json:
    """The bound of open connections."""
    return {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.resource_monitors.downstream_connections.v3"
                    ".DownstreamConnectionsConfig",
                    "max_active_downstream_connections": MOST_CONNECTIONS,
                },
            }
        ]
    }


def local_replies() -> Json:
    """What Envoy answers by itself, as problem documents (RFC 9457)."""
    away = _problem("no_gateway", "Service Unavailable", "no gateway answered", retryable=True)
    late = _problem("gateway_timeout", "Gateway Timeout", "no gateway answered in time", retryable=True)
    other = _problem("bad_request", "Refused", "%RESPONSE_CODE_DETAILS%", retryable=False)
    return {
        "mappers": [
            {
                "filter": _status(503),
                "headers_to_add": [*_TOLD, {"header": {"key": "retry-after", "value": "1"}}],
                "body_format_override": away,
            },
            {"filter": _status(504), "headers_to_add": _TOLD, "body_format_override": late},
            {"filter": _status(400, "GE"), "headers_to_add": _TOLD, "body_format_override": other},
        ]
    }


_TOLD: list[Json] = [{"header": {"key": "x-request-id", "value": "%REQ(X-REQUEST-ID)%"}}]


def _problem(code: str, title: str, detail: str, *, retryable: bool) -> Json:
    return {
        "content_type": "application/problem+json",
        "json_format": {
            "type": f"urn:millstream:problem:{code}",
            "title": title,
            "status": "%RESPONSE_CODE%",
            "detail": detail,
            "code": code,
            "request_id": "%REQ(X-REQUEST-ID)%",
            "retryable": retryable,
        },
    }


def _status(code: int, comparison: str = "EQ") -> Json:
    value = {"default_value": code, "runtime_key": f"balancer.status.{code}"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _socket(address: Address) -> Json:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _seconds(value: float) -> str:
    return f"{value:g}s"
