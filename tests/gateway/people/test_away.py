"""Services that are away: what is stated to go on does, the rest answers 503 and nothing else."""

import pytest

from core.settings import Redis
from stack.local import Stack
from tests.gateway.people.site import AUTH, PeopleSite, bearer
from tests.stack_fixture import free_ports

pytestmark = pytest.mark.services
REVIEWS = "/api/v1/reviews"


def test_without_redis_nobody_logs_in_and_keys_go_on(stack: Stack, site: PeopleSite) -> None:
    port, nothing = free_ports(2)
    settings = stack.settings.model_copy(update={"redis": Redis(url=f"redis://127.0.0.1:{nothing}/0")})
    tokens, name, enrolled = site.tokens("viewer"), site.user("viewer"), site.enrolled()[0]
    challenge = site.challenge(enrolled)
    with PeopleSite(settings, port=port) as alone:
        for refused in (
            alone.login(name),
            alone.login(enrolled),
            alone.answer(challenge, "123456"),
            alone.bare.post(f"{AUTH}/refresh", json={"refresh_token": tokens["refresh_token"]}),
        ):
            assert (refused.status_code, refused.json()["code"]) == (503, "sessions_unavailable")
            assert "retry-after" in refused.headers
        unknown = alone.get(REVIEWS, tokens["access_token"])
        assert (unknown.status_code, unknown.json()["code"]) == (503, "keys_unavailable"), "no list was read"
        assert alone.get(REVIEWS, alone.key()).status_code == 200
        assert alone.login(name, "not the password").status_code == 401
    assert site.get(REVIEWS, tokens["access_token"]).status_code == 200
    assert site.bare.get(f"{AUTH}/sessions", headers=bearer(tokens["access_token"])).status_code == 200


def test_two_gateways_know_each_others_tokens_and_what_was_ended(stack: Stack, site: PeopleSite) -> None:
    (port,) = free_ports(1)
    with PeopleSite(stack.settings, port=port) as other:
        tokens = site.tokens("viewer")
        access = tokens["access_token"]
        assert other.get(REVIEWS, access).status_code == 200
        assert other.post(f"{AUTH}/logout", access).status_code == 204
        assert other.get(REVIEWS, access).status_code == 401, "there at once"
        refused = site.bare.post(f"{AUTH}/refresh", json={"refresh_token": tokens["refresh_token"]})
        assert refused.status_code == 401
