"""The table: how each route is called well, and how it refuses. A route that has no row here fails.

Without workers nobody answers what is asked: of such a route `good` is None, and its rows are those that are
refused before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.gateway.people.site import AUTH, PASSWORD
from tests.gateway.running import transaction, user_event
from tests.models import made

Refusal = tuple[int, str | None]
WIDTH = len(made.SIGNED.inputs)
PROBES = ("/livez", "/startupz", "/health", "/ready", "/readyz", "/metrics")
DOCUMENTS = ("/docs", "/openapi.json", "/asyncapi.json")


@dataclass(frozen=True)
class Row:
    """One route. path: of a good call, with the absent id where it takes one. good: its status. body: of a
    good call. shape: the answer to a body that is JSON, but not what is wanted; lone: to no object at all.
    absent: what a path value is answered that names nothing; None where anything is a name.
    limit: the most bytes of a body. open: without a credential. openai: errors in OpenAI's shape. typed: the
    content type matters. inference: errors in the shape of the Open Inference Protocol, which has no codes;
    any content type is taken, a coding is not. answers: statuses of a good body in which one text is
    something else. user: called by a user who has just logged in, not with a key."""

    path: str
    good: int | None
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    shape: Refusal = (422, "invalid_record")
    lone: Refusal | None = None
    absent: Refusal | None = None
    limit: int = 0
    open: bool = False
    openai: bool = False
    typed: bool = True
    inference: bool = False
    answers: frozenset[int] = frozenset()
    user: bool = False


def probe(path: str) -> Row:
    return Row(path, 200, open=True)


LATER = {"prefer": "respond-async"}
REQUEST, MALFORMED = "invalid_request", "malformed_body"
KIB = 1024
ABSENT = (404, "not_found")
UNKNOWN_MODEL = (404, "unknown_model")
PIPELINE = (404, "unknown_pipeline")
VERDICT = {"verdict": "fraud", "note": "x", "reviewer": "me"}
PROMPT = {"prompt": "Why?", "model": "m", "stop": "."}
TEXTS = {"input": "Why?", "model": "m"}
TENSORS = {
    "inputs": [{"name": "inputs", "shape": [0, WIDTH], "datatype": "FP32", "data": []}],
    "id": "a1",
}
MIB = 1024 * KIB
GONE = (404, None)
CHAT = {"messages": [{"role": "user", "content": "Why?"}], "model": "m"}

ROUTES: dict[str, Row] = {
    "POST /api/v1/pipelines/{pipeline}/events": Row(
        "/api/v1/pipelines/fraud/events", 202, transaction(), absent=PIPELINE, limit=64 * KIB,
        answers=frozenset({202, 422}),
    ),
    "POST /events": Row("/events", 202, user_event(), limit=64 * KIB, answers=frozenset({202, 422})),
    "POST /api/v1/pipelines/{pipeline}/infer": Row(
        "/api/v1/pipelines/fraud/infer", 202, transaction(), LATER, absent=PIPELINE, limit=256 * KIB,
        answers=frozenset({202, 422}),
    ),
    "GET /api/v1/requests/{id}": Row("/api/v1/requests/absent", 404, absent=ABSENT),
    "GET /api/v1/stream": Row("/api/v1/stream?channel=nope", 404),
    "POST /api/v1/generate": Row(
        "/api/v1/generate", None, PROMPT, shape=(400, REQUEST), lone=(400, MALFORMED), limit=192 * KIB,
    ),
    "POST /v1/chat/completions": Row(
        "/v1/chat/completions", None, CHAT, shape=(422, REQUEST), lone=(400, MALFORMED), limit=192 * KIB,
        openai=True,
    ),
    "GET /v1/models": Row("/v1/models", 200, openai=True),
    "GET /v1/models/{model}": Row("/v1/models/absent", 404, openai=True, absent=GONE),
    "POST /v1/embeddings": Row(
        "/v1/embeddings", None, TEXTS, shape=(422, REQUEST), lone=(400, MALFORMED), limit=256 * KIB,
        openai=True,
    ),
    "GET /v2/health/live": Row("/v2/health/live", 200, open=True, inference=True),
    "GET /v2/health/ready": Row("/v2/health/ready", 200, open=True, inference=True),
    "GET /v2": Row("/v2", 200, inference=True),
    **{
        f"{method} {template}": Row(
            path, 200, TENSORS if method == "POST" else None, shape=(422, "invalid_record"), absent=GONE,
            limit=8 * MIB, inference=True, answers=frozenset({200, 422}),
        )
        for method, template, path in (
            ("GET", "/v2/models/{model}", "/v2/models/small"),
            ("GET", "/v2/models/{model}/ready", "/v2/models/small/ready"),
            ("GET", "/v2/models/{model}/versions/{version}", "/v2/models/small/versions/1"),
            ("GET", "/v2/models/{model}/versions/{version}/ready", "/v2/models/small/versions/1/ready"),
            ("POST", "/v2/models/{model}/infer", "/v2/models/small/infer"),
            ("POST", "/v2/models/{model}/versions/{version}/infer", "/v2/models/small/versions/1/infer"),
        )
    },
    "GET /api/v1/batch/status": Row("/api/v1/batch/status", 200),
    "GET /api/v1/transactions/{id}": Row("/api/v1/transactions/absent", 404, absent=ABSENT),
    "GET /api/v1/features/{view}/{entity}": Row(
        "/api/v1/features/card_activity/1-2-3", 200, absent=(404, "unknown_view")
    ),
    "POST /api/v1/features/read": Row(
        "/api/v1/features/read", 200, {"features": ["card_activity:amount_sum_1h"], "entities": ["1-2-3"]},
        shape=(422, REQUEST), limit=256 * KIB,
    ),
    "GET /api/v1/reviews": Row("/api/v1/reviews", 200),
    "POST /api/v1/reviews/{id}/decision": Row(
        "/api/v1/reviews/absent/decision", 404, VERDICT, absent=ABSENT, limit=16 * KIB,
        answers=frozenset({404, 422}),
    ),
    "POST /api/v1/training/jobs": Row(
        "/api/v1/training/jobs", 202, {"model": "fraud"}, shape=(422, "invalid_training"), limit=64 * KIB,
        answers=frozenset({404}),
    ),
    "GET /api/v1/training/jobs": Row("/api/v1/training/jobs", 200),
    "GET /api/v1/training/jobs/{id}": Row("/api/v1/training/jobs/absent", 404, absent=ABSENT),
    "POST /api/v1/training/jobs/{id}/acknowledge": Row(
        "/api/v1/training/jobs/absent/acknowledge", 404, absent=ABSENT
    ),
    "GET /api/v1/models": Row("/api/v1/models", 200),
    "POST /api/v1/models": Row(
        "/api/v1/models", 404, {"id": "absent:1"}, shape=(400, REQUEST), limit=16 * KIB,
        answers=frozenset({404}),
    ),
    "POST /api/v1/models/swap": Row(
        "/api/v1/models/swap", 404, {"target": "absent:1", "expected_revision": 1}, shape=(400, REQUEST),
        limit=16 * KIB, answers=frozenset({404}),
    ),
    "POST /api/v1/models/rollback": Row(
        "/api/v1/models/rollback", 404, {"model": "absent"}, shape=(400, REQUEST), limit=16 * KIB,
        answers=frozenset({404}),
    ),
    "GET /api/v1/models/{id}": Row("/api/v1/models/absent:1", 404, absent=UNKNOWN_MODEL),
    "DELETE /api/v1/models/{id}": Row("/api/v1/models/absent:1", 404, absent=UNKNOWN_MODEL),
    "GET /api/v1/models/{id}/swap/safety": Row(
        "/api/v1/models/absent:1/swap/safety", 404, absent=UNKNOWN_MODEL
    ),
    "POST /api/v1/registry/webhook": Row(
        "/api/v1/registry/webhook", 401, {"entity": "model_version", "action": "x"}, open=True, typed=False,
        shape=(401, "unauthenticated"), limit=256 * KIB, answers=frozenset({401}),
    ),
    f"POST {AUTH}/login": Row(
        f"{AUTH}/login", 401, {"user": "nobody", "password": "wrong"}, shape=(422, REQUEST), limit=16 * KIB,
        open=True, answers=frozenset({401}),
    ),
    f"POST {AUTH}/challenge": Row(
        f"{AUTH}/challenge", 401, {"challenge": "absent", "code": "123456"}, shape=(422, REQUEST),
        limit=16 * KIB, open=True, answers=frozenset({401}),
    ),
    f"POST {AUTH}/refresh": Row(
        f"{AUTH}/refresh", 401, {"refresh_token": "absent"}, shape=(422, REQUEST), limit=16 * KIB, open=True,
        answers=frozenset({401}),
    ),
    f"POST {AUTH}/logout": Row(f"{AUTH}/logout", 204, user=True),
    f"GET {AUTH}/sessions": Row(f"{AUTH}/sessions", 200, user=True),
    f"DELETE {AUTH}/sessions/{{id}}": Row(f"{AUTH}/sessions/absent", 404, absent=ABSENT, user=True),
    f"POST {AUTH}/second-factor": Row(
        f"{AUTH}/second-factor", 200, {"password": PASSWORD}, shape=(422, REQUEST), limit=16 * KIB,
        answers=frozenset({403}), user=True,
    ),
    f"POST {AUTH}/second-factor/confirm": Row(
        f"{AUTH}/second-factor/confirm", 409, {"code": "123456"}, shape=(422, REQUEST), limit=16 * KIB,
        answers=frozenset({409}), user=True,
    ),
    "GET /.well-known/jwks.json": Row("/.well-known/jwks.json", 200, open=True),
    **{f"GET {path}": probe(path) for path in (*PROBES, *DOCUMENTS)},
}  # fmt: skip


def method_of(name: str) -> str:
    return name.partition(" ")[0]


def template_of(name: str) -> str:
    return name.partition(" ")[2]


DEEP = 1_000
BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", MALFORMED),
    "blanks": (b" \n\t ", MALFORMED),
    "half an object": (b'{"a": 1', MALFORMED),
    "half a text": (b'{"a": "', MALFORMED),
    "two values": (b"{} {}", MALFORMED),
    "a comma too many": (b'{"a": 1,}', MALFORMED),
    "single quotes": (b"{'a': 1}", MALFORMED),
    "a comment": (b'{"a": 1} // fine', MALFORMED),
    "no number": (b'{"a": NaN}', MALFORMED),
    "infinity": (b'{"a": -Infinity}', MALFORMED),
    "beyond all numbers": (b'{"a": 1e999}', MALFORMED),
    "an integer of 5000 digits": (b'{"a": 1%s}' % (b"0" * 5_000), MALFORMED),
    "the same key twice": (b'{"a": 1, "a": 2}', "duplicate_key"),
    "a list without end": (b"[" * DEEP, "too_deep"),
    "a deep list": (b"[" * DEEP + b"]" * DEEP, "too_deep"),
    "a deep object": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "too_deep"),
    "a text that never ends": (b"[" * 33 + b'"' + b'\\"' * 5_000, "too_deep"),
    "no UTF-8": (b'{"a": "\xff\xfe"}', MALFORMED),
    "an overlong character": (b'{"a": "\xc0\x80"}', MALFORMED),
    "half a character": (b'{"a": "\\ud800"}', MALFORMED),
    "half a character in bytes": (b'{"a": "\xed\xa0\x80"}', MALFORMED),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), MALFORMED),
    "a mark of the byte order": (b"\xef\xbb\xbf{}", MALFORMED),
    "an escape that is none": (b'{"a": "\\x41"}', MALFORMED),
    "a control character": (b'{"a": "\x01"}', MALFORMED),
    "a NUL": (b"\x00", MALFORMED),
    "another language": (b"<a>1</a>", MALFORMED),
}
"""Bodies that are no JSON to anybody, and the code of the refusal (400)."""

LONE: dict[str, bytes] = {
    "a number": b"1", "a text": b'"a"', "null": b"null", "true": b"true", "the largest float": b"1.7e308",
}  # fmt: skip
"""JSON that is nothing that any route takes."""

SHAPES: dict[str, bytes] = {
    "nothing in it": b"{}",
    "a field that is not known": b'{"nobody-knows": 1}',
    "a prototype": b'{"__proto__": {"admin": true}, "constructor": {"prototype": {}}}',
    "a thousand fields": b"{%s}" % b",".join(b'"f%d":%d' % (n, n) for n in range(1_000)),
}
"""JSON objects that no route takes."""

TYPES = (
    None, "text/plain", "application/xml", "application/x-www-form-urlencoded", "application/jsonp", "json",
    "multipart/form-data; boundary=x", "application/json; charset=utf-16",
    "application/json; charset=latin-1", "*/*",
)  # fmt: skip
ENCODINGS = ("gzip", "br", "deflate", "gzip, identity", "x")

INJECTIONS = (
    "' OR '1'='1", "'; DROP TABLE api_keys; --", '" onload="alert(1)', "<script>alert(1)</script>",
    "${jndi:ldap://127.0.0.1/a}", "{{7*7}}", "%{7*7}", "$(touch /tmp/owned)", "`id`", "| cat /etc/passwd",
    "../../../../etc/passwd", "..\\..\\windows\\win.ini", "file:///etc/passwd", "\r\nSet-Cookie: a=b",
    "a|b", "%7C", "*", "\\", "\u202egpj.exe", "\U0001f4a5", "ﷺ" * 16, "a" * 500, "nil", "undefined", "-1",
    "9" * 40, "0x7f", "1e309", "true", "EVAL \"return 1\" 0", "\ufeff", "\u00a0", "Ω" * 100, "http://[::]:1/",
)  # fmt: skip
"""Texts that mean something to somebody."""
UNSPEAKABLE = ("%00", "%0d%0aSet-Cookie:%20a=b", "a%0ab", "%7f", "%1b[31m")
TRAVERSALS = ("..%2f..%2f..%2fetc%2fpasswd", "%2e%2e%2fhealth", "%2e%2e", "%2e", "a%2fb", "a" * 600)
"""Path values that the router takes for no name."""

QUERIES: dict[str, tuple[tuple[str, int, str | None], ...]] = {
    "/api/v1/reviews": (
        ("limit=0", 400, "invalid_option"), ("limit=501", 400, "invalid_option"),
        ("limit=-1", 400, "invalid_option"), ("limit=1e3", 400, "invalid_option"),
        ("limit=%D9%A1", 400, "invalid_option"), ("limit=", 400, "invalid_option"),
        ("limit=" + "9" * 4_000, 400, "invalid_option"), ("limit=1&limit=x", 400, "invalid_option"),
        ("state=all", 400, "invalid_option"), ("state=open%00", 400, "invalid_option"),
        ("state=' OR 1=1", 400, "invalid_option"), ("after=garbage", 422, "invalid_record"),
        ("after=W1tbW1tb", 422, "invalid_record"), ("after=" + "W1tb" * 2_000, 422, "invalid_record"),
        ("after=WyIyMDI2LTAxLTAxIiwgIlx1MDAwMCJd", 400, "invalid_option"),
        ("after=WyIyMDI2LTAxLTAxIiwgIlx1ZDgwMCJd", 422, "invalid_record"),
        ("nobody=knows", 200, None), ("&&&=&%", 200, None), ("a&" * 2_000, 200, None), ("%ff=%fe", 200, None),
    ),
    "/api/v1/training/jobs": (
        ("limit=0", 400, "invalid_option"), ("limit=" + "9" * 4_000, 400, "invalid_option"),
        ("x=1", 200, None),
    ),
    "/api/v1/stream": (
        ("", 400, "invalid_option"), ("channel=", 400, "invalid_option"),
        ("channel=nope", 404, "unknown_channel"),
        ("channel=results", 404, "unknown_channel"),
        ("channel=results&pipeline=nope", 404, "unknown_channel"),
        ("channel=entity&pipeline=fraud", 422, "invalid_channel"),
        ("channel=results&pipeline=fraud&policy=fastest", 400, "invalid_option"),
        ("channel=results&pipeline=fraud&filter=nope", 400, "invalid_option"),
        ("channel=results&pipeline=fraud&filter=[]", 400, "invalid_option"),
        ("channel=results&pipeline=fraud&filter=" + "[" * 4_000, 400, "invalid_option"),
        ("channel=results&pipeline=fraud&filter={%22nope%22:1}", 422, "invalid_filter"),
        ("channel=results&pipeline=fraud&filter={%22rank%22:%22x%22}", 422, "invalid_filter"),
        ("channel=results&pipeline=fraud&filter={%22status%22:[]}", 422, "invalid_filter"),
        ("channel=results&pipeline=fraud&filter={%22status%22:{%22a%22:1}}", 400, "invalid_option"),
        ("channel=results&pipeline=fraud&since=" + "." * 2_000, 400, "too_many_positions"),
        ("channel=../../health", 404, "unknown_channel"),
    ),
    "/readyz": (("verbose", 200, None), ("verbose=%00", 200, None)),
}  # fmt: skip
"""Options by path: status and code."""

HEADERS: dict[str, tuple[dict[str, str], int, str | None]] = {
    "a key that is none": ({"idempotency-key": "a b"}, 400, "invalid_key"),
    "a key that is too long": ({"idempotency-key": "a" * 129}, 400, "invalid_key"),
    "no key": ({"idempotency-key": ""}, 400, "invalid_key"),
    "a wait that is none": ({"prefer": "wait=soon"}, 400, "invalid_option"),
    "a wait below zero": ({"prefer": "wait=-1"}, 400, "invalid_option"),
    "a wait without end": ({"prefer": "wait=" + "9" * 40}, 400, "invalid_option"),
    "preferences that nobody knows": ({"prefer": 'respond-async, a="b;,", ;=,'}, 202, None),
    "no cache control": ({"cache-control": 'max-age="\\", =,,' + '"' * 500, **LATER}, 202, None),
    "a trace that is none": ({"traceparent": "00-" + "0" * 32 + "-x-01", **LATER}, 202, None),
    "an id that is none": ({"x-request-id": "<script>" + "a" * 300, **LATER}, 202, None),
    "somebody else's address": (
        {"x-forwarded-for": "a, 999.1.1.1, ::::, " + "1.1.1.1," * 200, **LATER},
        202,
        None,
    ),
    "another host": ({"host": "169.254.169.254", **LATER}, 202, None),
    "another tenant": ({"x-tenant": "theirs", "tenant": "theirs", **LATER}, 202, None),
    "another method": ({"x-http-method-override": "DELETE", **LATER}, 202, None),
    "another path": ({"x-original-url": "/metrics", "x-rewrite-url": "/metrics", **LATER}, 202, None),
}
"""Headers of a question to a pipeline: status and code. A wrong one is refused, an unknown one is nothing."""
