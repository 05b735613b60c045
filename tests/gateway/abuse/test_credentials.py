"""Credentials that are none: forged, expired, revoked, of nobody, of another. Each is refused in one way, by
every route that takes one, and nothing that a token points at is called."""

import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gateway.keys import mint
from gateway.principals import SCOPES
from tests.gateway import issuing
from tests.gateway.abuse.routes import ROUTES, Row, method_of
from tests.gateway.abuse.site import OURS, PATIENCE_S, Site

pytestmark = pytest.mark.services
TAKING = [name for name, row in ROUTES.items() if not row.open]
EVERY_SCOPE = " ".join(sorted(SCOPES))


def token(site: Site, **changes: Any) -> str:
    """A good token of the issuer, but for what is given."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"exp": now + 600, "iat": now, "tenant": OURS, "scope": EVERY_SCOPE}
    return issuing.token(**(claims | changes))


def symmetric(site: Site) -> str:
    """Signed with the issuer's public key, as if that were a secret (RFC 8725, section 2.1)."""
    public = issuing.RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = token(site)
    head = issuing.encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "rsa"}).encode())
    signed = f"{head}.{text.split('.')[1]}"
    return f"{signed}.{issuing.encoded(hmac.digest(public, signed.encode(), 'sha256'))}"


def pointing(site: Site) -> str:
    """Signed with another key, which the token brings along and points at."""
    key = issuing.jwk(issuing.OTHER_RSA_KEY, "theirs")
    header = {"jku": site.canary.url, "x5u": site.canary.url, "jwk": key}
    return token(site, key=issuing.OTHER_RSA_KEY, id="theirs", header=header)


def nested(site: Site) -> str:
    _, claims, signature = token(site).split(".")
    return f"{issuing.encoded(b'[' * 2_000 + b']' * 2_000)}.{claims}.{signature}"


def mutilated(site: Site) -> str:
    return site.key_of_ours[:-1] + ("a" if site.key_of_ours[-1] != "a" else "b")


BEARERS: dict[str, Callable[[Site], str]] = {
    "nothing": lambda site: "",
    "a word": lambda site: "nonsense",
    "a key with another end": mutilated,
    "half a key": lambda site: site.key_of_ours[:20],
    "two keys": lambda site: f"{site.key_of_ours}, {site.key_of_theirs}",
    "a key of nobody": lambda site: mint()[0],
    "the secret of another key": lambda site: _mixed(site),
    "a key that was revoked": Site.revoked_key,
    "a key that has expired": Site.expired_key,
    "no signature": lambda site: token(site).rpartition(".")[0] + ".",
    "a token that says it needs none": lambda site: issuing.unsigned("none"),
    "other claims under the signature": lambda site: issuing.with_claims(token(site), tenant="theirs"),
    "signed with the public key": symmetric,
    "signed with another key": lambda site: token(site, key=issuing.OTHER_RSA_KEY),
    "a key of its own": pointing,
    "an expired token": lambda site: token(site, exp=1_700_000_000),
    "a token of tomorrow": lambda site: token(site, nbf=int(datetime.now(UTC).timestamp()) + 86_400),
    "a token without an end": lambda site: token(site, exp=None),
    "a token for others": lambda site: token(site, aud="https://elsewhere.example"),
    "a token of another issuer": lambda site: token(site, iss="https://elsewhere.example/"),
    "a token of no tenant": lambda site: token(site, tenant=None),
    "a tenant that is none": lambda site: token(site, tenant="../theirs"),
    "several tenants": lambda site: token(site, tenant=["ours", "theirs"]),
    "a critical extension": lambda site: token(site, header={"crit": ["exp"]}),
    "endless nesting": nested,
    "ten thousand letters": lambda site: "a" * 10_000,
    "what SQL would like": lambda site: "' OR '1'='1' --",
}


def _mixed(site: Site) -> str:
    mine, others = site.key_of_ours.split("_"), site.key_of_theirs.split("_")
    return "_".join((mine[0], mine[1], *others[2:]))


@pytest.mark.parametrize("what", BEARERS)
def test_every_route_refuses_a_credential_that_is_none(site: Site, what: str) -> None:
    bearer, called = BEARERS[what](site), site.canary.calls
    seen, wrong = set(), []
    for name in TAKING:
        row = ROUTES[name]
        answer = site.bare.request(
            method_of(name), row.path, headers={"authorization": f"Bearer {bearer}".strip()}
        )
        found = site.wrong(answer, 401, "unauthenticated", openai=row.openai)
        if answer.headers.get("www-authenticate") != 'Bearer realm="millstream"':
            found.append("does not say how")
        wrong += [f"{name}: {one}" for one in found]
        seen.add(_said(row, answer.json()))
    assert not wrong, "\n".join(wrong)
    assert len(seen) == 1, "one refusal for everything that can be wrong"
    assert site.canary.calls == called
    site.works()


def _said(row: Row, document: Any) -> str:
    if row.inference:
        return str(document["error"])
    return str(document["error"]["message"] if row.openai else document["detail"])


def test_other_ways_to_bring_one_are_none(site: Site) -> None:
    key = site.key_of_ours
    for headers in (
        {"authorization": f"Basic {key}"},
        {"authorization": key},
        {"authorization": f"Bearer{key}"},
        {"cookie": f"authorization=Bearer {key}"},
        {"proxy-authorization": f"Bearer {key}"},
        {"x-api-key": f"Bearer {key}"},
    ):
        answer = site.bare.get("/api/v1/reviews", headers=headers)
        assert site.wrong(answer, 401, "unauthenticated") == [], headers
    for query in (f"token={key}", f"api_key={key}", f"access_token={key}"):
        assert site.wrong(site.bare.get(f"/api/v1/reviews?{query}"), 401, "unauthenticated") == []
    assert site.bare.get("/api/v1/reviews", headers={"x-api-key": key}).status_code == 200
    site.works()


def test_a_good_token_is_taken_and_one_without_the_scope_refused(site: Site) -> None:
    good = {"authorization": f"Bearer {token(site)}"}
    poor = {"authorization": f"Bearer {token(site, scope='made:up')}"}
    key = {"authorization": f"Bearer {site.key(OURS, scopes=[])}"}
    assert site.bare.get("/api/v1/reviews", headers=good).status_code == 200
    wrong = []
    for name in TAKING:
        row = ROUTES[name]
        for headers in (poor, key):
            answer = site.bare.request(method_of(name), row.path, headers=headers)
            found = site.wrong(answer, 403, "forbidden", openai=row.openai)
            wrong += [f"{name}: {one}" for one in found]
    assert not wrong, "\n".join(wrong)
    site.works()


def test_a_key_that_is_revoked_ends_its_sockets_streams_and_requests(site: Site) -> None:
    key = site.key(OURS)
    headers = {"authorization": f"Bearer {key}"}
    url = site.url.replace("http", "ws") + "/api/v1/stream"
    stream = site.bare.stream("GET", "/api/v1/stream?channel=results&pipeline=fraud", headers=headers)
    with connect(url, additional_headers=headers) as first, connect(url) as second, stream as events:
        first.send('{"type":"connect"}')
        second.send(json.dumps({"type": "connect", "token": key}))
        for socket in (first, second):
            assert json.loads(socket.recv(PATIENCE_S))["type"] == "connected"
            socket.send('{"type":"subscribe","channel":"results","pipeline":"fraud"}')
            assert json.loads(socket.recv(PATIENCE_S))["type"] == "subscribed"
        lines = events.iter_lines()
        assert next(lines) == "event: subscribed"
        site.revoke(key)
        for socket in (first, second):
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(PATIENCE_S)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
        rest = list(lines)
        assert "event: error" in rest
        assert "unauthenticated" in "".join(rest)
    answer = site.bare.get("/api/v1/reviews", headers=headers)
    assert site.wrong(answer, 401, "unauthenticated") == []
    site.works()
