"""Logging in, going on, logging out: by HTTP, on a real gateway."""

import json

import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.gateway.people.site import AUTH, PASSWORD, PeopleSite, bearer, until

pytestmark = pytest.mark.services
REVIEWS = "/api/v1/reviews"


def test_a_login_gives_a_token_that_opens_what_the_role_allows(site: PeopleSite) -> None:
    tokens = site.tokens("viewer")
    assert tokens["token_type"] == "Bearer"
    assert site.get(REVIEWS, tokens["access_token"]).status_code == 200
    refused = site.post("/api/v1/models/rollback", tokens["access_token"], {"model": "fraud"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "models:write" in refused.json()["detail"]
    assert site.get(REVIEWS, "nonsense").status_code == 401


def test_what_is_published_of_the_keys_verifies_the_token(site: PeopleSite) -> None:
    access = site.tokens("viewer")["access_token"]
    answer = site.bare.get("/.well-known/jwks.json")
    assert answer.headers["cache-control"] == "public, max-age=60"
    keys = jwt.PyJWKSet.from_dict(answer.json())
    header = jwt.get_unverified_header(access)
    assert (header["typ"], header["alg"]) == ("at+jwt", "EdDSA")
    claims = jwt.decode(
        access, keys[header["kid"]], algorithms=["EdDSA"], audience="millstream", issuer="millstream"
    )
    assert claims["tenant"] == "acme"
    assert claims["roles"] == ["viewer"]
    assert claims["exp"] - claims["iat"] == 600
    assert {"sub", "sid", "jti"} <= claims.keys()
    assert all("d" not in key for key in answer.json()["keys"]), "the private half stays here"


def test_a_user_without_a_role_may_nothing_but_log_out(site: PeopleSite) -> None:
    access = site.tokens()["access_token"]
    assert site.get(REVIEWS, access).status_code == 403
    assert site.get(f"{AUTH}/sessions", access).status_code == 200
    assert site.post(f"{AUTH}/logout", access).status_code == 204
    assert site.get(f"{AUTH}/sessions", access).status_code == 401


def test_refresh_tokens_rotate_and_reuse_ends_the_session(site: PeopleSite) -> None:
    first = site.tokens("viewer")
    body = {"refresh_token": first["refresh_token"]}
    second = site.bare.post(f"{AUTH}/refresh", json=body)
    assert second.status_code == 200
    assert second.json()["refresh_token"] != first["refresh_token"]
    assert second.json()["session"] == first["session"]
    assert site.get(REVIEWS, second.json()["access_token"]).status_code == 200
    again = site.bare.post(f"{AUTH}/refresh", json=body)
    assert (again.status_code, again.json()["code"]) == (401, "refresh_refused")
    newest = {"refresh_token": second.json()["refresh_token"]}
    assert site.bare.post(f"{AUTH}/refresh", json=newest).status_code == 401
    until(lambda: site.get(REVIEWS, second.json()["access_token"]).status_code == 401, "the session is over")
    assert site.get(REVIEWS, first["access_token"]).status_code == 401


def test_who_only_knows_the_session_cannot_end_it(site: PeopleSite) -> None:
    tokens = site.tokens("viewer")
    _, session, _, _ = tokens["refresh_token"].split("_")
    forged = f"msr_{session}_{'0' * 64}_{'1' * 64}"
    answer = site.bare.post(f"{AUTH}/refresh", json={"refresh_token": forged})
    assert (answer.status_code, answer.json()["code"]) == (401, "refresh_refused")
    body = {"refresh_token": tokens["refresh_token"]}
    assert site.bare.post(f"{AUTH}/refresh", json=body).status_code == 200


def test_sessions_are_listed_and_ended_one_by_one_and_everywhere(site: PeopleSite) -> None:
    name = site.user("viewer")
    here, there, third = (site.login(name).json() for _ in range(3))
    listed = site.get(f"{AUTH}/sessions", here["access_token"]).json()["sessions"]
    assert {one["id"] for one in listed} == {here["session"], there["session"], third["session"]}
    assert [one["id"] for one in listed if one["current"]] == [here["session"]]
    other = site.tokens("viewer")
    foreign = site.bare.delete(f"{AUTH}/sessions/{other['session']}", headers=bearer(here["access_token"]))
    assert foreign.status_code == 404
    assert site.get(REVIEWS, other["access_token"]).status_code == 200
    ended = site.bare.delete(f"{AUTH}/sessions/{there['session']}", headers=bearer(here["access_token"]))
    assert ended.status_code == 204
    assert site.get(REVIEWS, there["access_token"]).status_code == 401
    assert site.get(REVIEWS, third["access_token"]).status_code == 200
    assert site.post(f"{AUTH}/logout", here["access_token"], {"everywhere": True}).status_code == 204
    for tokens in (here, third):
        assert site.get(REVIEWS, tokens["access_token"]).status_code == 401
        body = {"refresh_token": tokens["refresh_token"]}
        assert site.bare.post(f"{AUTH}/refresh", json=body).status_code == 401


def test_a_session_that_is_ended_closes_its_sockets(site: PeopleSite) -> None:
    name = site.user("viewer")
    here, there = site.login(name).json(), site.login(name).json()
    url = site.url.replace("http", "ws") + "/api/v1/stream"
    with connect(url, additional_headers=bearer(here["access_token"])) as socket:
        socket.send('{"type":"connect"}')
        assert json.loads(socket.recv(20))["type"] == "connected"
        path = f"{AUTH}/sessions/{here['session']}"
        assert site.bare.delete(path, headers=bearer(there["access_token"])).status_code == 204
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def test_a_disabled_user_is_out_and_another_password_ends_the_sessions(site: PeopleSite) -> None:
    name = site.user("viewer")
    tokens = site.login(name).json()
    site.operator.disable(name)
    until(lambda: site.get(REVIEWS, tokens["access_token"]).status_code == 401, "the user is out")
    assert site.login(name).status_code == 401
    site.operator.enable(name)
    tokens = site.login(name).json()
    site.operator.set_password(name, "another long password")
    until(lambda: site.get(REVIEWS, tokens["access_token"]).status_code == 401, "the session is over")
    assert site.login(name, PASSWORD).status_code == 401
    assert site.login(name, "another long password").status_code == 200
