"""Every route, called wrongly in every way: what comes is what the table says, nothing of it is a 5xx or
tells what is not its reader's business, and the next good request works."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from gateway.principals import OPEN
from tests.gateway.abuse import routes
from tests.gateway.abuse.routes import ROUTES, Row, method_of, template_of
from tests.gateway.abuse.site import Site

pytestmark = pytest.mark.services

EVERY = pytest.mark.parametrize("name", ROUTES)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
CHAT = ROUTES["POST /v1/chat/completions"]
TAKING = [name for name, row in ROUTES.items() if row.body is not None]
NAMED = [name for name in ROUTES if "{" in name]
Wrong = list[tuple[str, list[str]]]


def call(
    site: Site, name: str, *, path: str | None = None, body: Any = None, **headers: str
) -> httpx.Response:
    """A route called as its row says, but for what is given."""
    row = ROUTES[name]
    content = body if isinstance(body, bytes) else encoded(row if body is None else body)
    typed = {"content-type": "application/json"} if row.body is not None else {}
    return site.caller(row).request(
        method_of(name), path or row.path, content=content, headers={**row.headers, **typed, **headers}
    )


def encoded(body: Any) -> bytes | None:
    if isinstance(body, Row):
        return None if body.body is None else msgspec.json.encode(body.body)
    return msgspec.json.encode(body)


def works(site: Site, name: str) -> None:
    """The next good call of the route is answered; of one that nobody answers here, another route's."""
    row = ROUTES[name]
    if row.good is None:
        site.works()
        return
    answer = call(site, name)
    assert answer.status_code == row.good, answer.text


def nothing(wrong: Iterable[tuple[str, list[str]]]) -> None:
    found = [f"{what}: {one}" for what, reasons in wrong for one in reasons]
    assert not found, "\n" + "\n".join(found[:40])


def test_every_route_has_a_row(site: Site) -> None:
    there = {route.name for route in site.assembly.router.routes}
    assert there - ROUTES.keys() == set(), "routes that nobody abuses"
    assert ROUTES.keys() - there == set(), "rows of routes that are not there"
    assert {row.path.partition("?")[0] for row in ROUTES.values()} >= set(routes.QUERIES)
    for route in site.assembly.router.routes:
        assert ROUTES[route.name].open == (route.permission in OPEN), route.name


@EVERY
def test_called_well(site: Site, name: str) -> None:
    works(site, name)
    if ROUTES[name].good is not None:
        answer = call(site, name)
        nothing([(name, site.wrong(answer, ROUTES[name].good, openai=ROUTES[name].openai))])


@pytest.mark.parametrize("template", dict.fromkeys(map(template_of, ROUTES)))
def test_another_method_is_405_and_told_which(site: Site, template: str) -> None:
    names = [name for name in ROUTES if template_of(name) == template]
    taken = {method_of(name) for name in names}
    allowed = taken | ({"HEAD"} if "GET" in taken else set())
    row = ROUTES[names[0]]
    wrong: Wrong = []
    for method in METHODS:
        if method in allowed:
            continue
        answer = site.ours.request(method, row.path)
        found = site.wrong(answer, 405, "method_not_allowed", openai=row.openai)
        told = {one.strip() for one in answer.headers.get("allow", "").split(",")}
        wrong.append((method, found if told == allowed else [*found, f"Allow: {told}"]))
    nothing(wrong)
    works(site, names[0])


@pytest.mark.parametrize("name", TAKING)
def test_what_is_no_json(site: Site, name: str) -> None:
    row, wrong = ROUTES[name], []
    for what, (body, code) in routes.BODIES.items():
        status = 400 if row.typed else row.shape[0]
        answer = call(site, name, body=body)
        wrong.append((what, site.wrong(answer, status, code if row.typed else None, openai=row.openai)))
    nothing(wrong)
    works(site, name)


@pytest.mark.parametrize("name", TAKING)
def test_json_of_another_shape(site: Site, name: str) -> None:
    row, wrong = ROUTES[name], []
    for what, body in routes.LONE.items():
        status, code = row.lone or row.shape
        wrong.append((what, site.wrong(call(site, name, body=body), status, code, openai=row.openai)))
    for what, body in routes.SHAPES.items():
        status, code = row.shape
        wrong.append((what, site.wrong(call(site, name, body=body), status, code, openai=row.openai)))
    for field in ("nobody-knows", "__class__", "tenant\u0000", "a" * 5_000):
        more = {**(row.body or {}), field: {"deep": [1]}}
        answer = call(site, name, body=more)
        wrong.append((f"with {field[:20]!r}", site.wrong(answer, *row.shape, openai=row.openai)))
    nothing(wrong)
    works(site, name)


@pytest.mark.parametrize("name", TAKING)
def test_fields_of_another_type(site: Site, name: str) -> None:
    """None of them is what the field takes, or it is, and the call is good."""
    row, wrong = ROUTES[name], []
    good = {row.good, row.shape[0], (row.lone or row.shape)[0], 400, 404, 413, 422} - {None}
    values = (
        None,
        [],
        {},
        [[]],
        {"a": {"b": None}},
        -1,
        2**63,
        2**64,
        10**400,
        1.5,
        -0.0,
        "",
        [None] * 2_000,
    )
    for field in list(row.body or {})[:8]:
        for value in values:
            if row.good is None and field in ("model", "stop", "user") and value in (None, [], ""):
                continue  # it would be asked, and nobody answers here
            answer = call(site, name, body={**(row.body or {}), field: value})
            found = site.wrong(answer, openai=row.openai)
            if answer.status_code not in good:
                found.append(f"{answer.status_code}: {answer.text[:200]}")
            wrong.append((f"{field} = {str(value)[:30]}", found))
    nothing(wrong)
    works(site, name)


@pytest.mark.parametrize("name", TAKING)
def test_texts_that_mean_something_to_somebody(site: Site, name: str) -> None:
    row, wrong = ROUTES[name], []
    texts = [field for field, value in (row.body or {}).items() if isinstance(value, str)]
    for field in texts if row.answers else ():
        for text in routes.INJECTIONS:
            answer = call(site, name, body={**(row.body or {}), field: text})
            found = site.wrong(answer, openai=row.openai)
            if answer.status_code not in row.answers:
                found.append(f"{answer.status_code}: {answer.text[:200]}")
            if "set-cookie" in answer.headers:
                found.append("a header of the client's")
            wrong.append((f"{field} = {text[:30]!r}", found))
    nothing(wrong)
    works(site, name)


@pytest.mark.parametrize("name", TAKING)
def test_another_content_type_or_encoding_is_415(site: Site, name: str) -> None:
    row, wrong = ROUTES[name], []
    body = encoded(row)
    refusal = (415, "unsupported_media_type") if row.typed else row.shape
    for kind in () if row.inference else routes.TYPES:
        headers = {} if kind is None else {"content-type": kind}
        answer = site.caller(row).request(
            method_of(name), row.path, content=body, headers={**row.headers, **headers}
        )
        wrong.append((str(kind), site.wrong(answer, *refusal, openai=row.openai)))
    for coding in routes.ENCODINGS:
        answer = call(site, name, **{"content-encoding": coding})
        wrong.append((coding, site.wrong(answer, *refusal, openai=row.openai)))
    nothing(wrong)
    works(site, name)


@pytest.mark.parametrize("name", TAKING)
def test_a_body_that_is_too_large_is_413(site: Site, name: str) -> None:
    row = ROUTES[name]
    body = b'{"a": "' + b"a" * row.limit + b'"}'
    nothing([(f"{len(body)} bytes", site.wrong(call(site, name, body=body), 413, openai=row.openai))])
    works(site, name)


@pytest.mark.parametrize("name", NAMED)
def test_path_values_that_name_nothing(site: Site, name: str) -> None:
    row, wrong = ROUTES[name], []
    method, template = method_of(name), template_of(name)
    first = template[template.index("{") : template.index("}") + 1]
    others = template.replace(first, "FIRST").replace("{entity}", "1-2-3")
    written = [quote(text, safe="") for text in routes.INJECTIONS]
    for raw in (*written, *routes.UNSPEAKABLE, *routes.TRAVERSALS):
        answer = call(site, name, path=others.replace("FIRST", raw))
        known = {row.absent, (404, "not_found"), (405, "method_not_allowed")}
        code = answer.json().get("code") if method != "HEAD" else None
        found = site.wrong(answer, openai=row.openai)
        if (answer.status_code, code) not in known:
            found.append(f"{answer.status_code} {code}")
        wrong.append((raw[:40], found))
    nothing(wrong)
    works(site, name)


def test_entities_may_be_any_text(site: Site) -> None:
    wrong: Wrong = []
    for text in routes.INJECTIONS:
        answer = site.ours.get(f"/api/v1/features/card_activity/{quote(text, safe='')}")
        expected = {200, 422} if "|" in text or "%" in text else {200}
        if "\r" in text or "/" in text:
            expected = {404}
        found = site.wrong(answer)
        wrong.append(
            (text[:30], found if answer.status_code in expected else [*found, str(answer.status_code)])
        )
    nothing(wrong)
    site.works()


@pytest.mark.parametrize("path", routes.QUERIES)
def test_options_that_make_no_sense(site: Site, path: str) -> None:
    wrong: Wrong = []
    for query, status, code in routes.QUERIES[path]:
        answer = site.ours.get(f"{path}?{query}")
        wrong.append((query[:80], site.wrong(answer, status, code)))
    nothing(wrong)
    site.works()


def test_headers_that_make_no_sense(site: Site) -> None:
    name, wrong = "POST /api/v1/pipelines/{pipeline}/infer", []
    for what, (headers, status, code) in routes.HEADERS.items():
        answer = site.ours.post(
            ROUTES[name].path,
            content=encoded(ROUTES[name]),
            headers={"content-type": "application/json", **headers},
        )
        wrong.append((what, site.wrong(answer, status, code)))
    nothing(wrong)
    works(site, name)


def test_paths_that_are_none(site: Site) -> None:
    paths = (
        "/", "/api", "/api/v1/", "/api/v1/reviews/", "/api//v1/reviews", "/api/v1//reviews",
        "/API/V1/REVIEWS", "/api/v1/../v1/reviews/x", "/.git/config", "/.env", "/admin", "/api/v1/reviews;a",
        "/api/v1/reviews%2f", "/api/v1/reviews%20", "/api/v1/reviews%00", "/%61%70%69/v1/nope", "/livez/..",
        "/api/v1/%2e%2e/reviews", "/\u0441\u0442\u0440", "/" + "a/" * 2_000, "/server-status", "/debug/pprof",
    )  # fmt: skip
    nothing((path[:40], site.wrong(site.ours.get(path), 404, "not_found")) for path in paths)
    answer = site.ours.get("/api/v1/reviews", params={"a": "b" * 9_000})
    nothing([("a long query", site.wrong(answer, 414, "target_too_long"))])
    site.works()


def test_nobody_is_called_whom_a_client_names(site: Site) -> None:
    """Addresses of others, wherever something could take one for an address to call."""
    url, before = site.canary.url, site.canary.calls
    image = {"type": "image_url", "image_url": {"url": url}}
    wrong: Wrong = []
    bodies: list[tuple[str, dict[str, Any], int]] = [
        ("/api/v1/training/jobs", {"model": "fraud", "notifications": {"webhook": url}}, 422),
        ("/api/v1/training/jobs", {"model": "fraud", "source": {"kind": url}}, 422),
        ("/api/v1/training/jobs", {"model": url}, 404),
        ("/api/v1/models", {"id": url}, 404),
        ("/api/v1/models", {"id": f"{url}:1", "url": url}, 400),
        ("/api/v1/models/swap", {"target": url}, 404),
        ("/api/v1/models/rollback", {"model": url}, 404),
        ("/api/v1/generate", {"prompt": "x", "url": url}, 400),
        ("/api/v1/generate", {"prompt": "x", "base_url": url, "webhook": url}, 400),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [image]}]}, 422),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "tools": [{"url": url}]},
            422,
        ),
        ("/api/v1/features/read", {"service": url, "entities": ["x"]}, 404),
        ("/v1/embeddings", {"input": "x", "model": url}, 404),
        ("/v1/embeddings", {"input": "x", "base_url": url}, 422),
        ("/v2/models/small/infer", {"inputs": [], "url": url}, 422),
    ]
    for path, body, status in bodies:
        answer = site.ours.post(path, json=body)
        wrong.append((f"{path} {body}", site.wrong(answer, status, openai=path.startswith("/v1/"))))
    headers = {
        "origin": url,
        "referer": url,
        "x-forwarded-host": f"127.0.0.1:{site.canary.port}",
        "forwarded": url,
    }
    wrong.append(("headers", site.wrong(site.ours.get("/api/v1/reviews", headers=headers), 200)))
    nothing(wrong)
    assert site.canary.calls == before
    site.works()
