"""Who tries to be somebody else, or to find out who there is: nothing works, and nothing is told."""

from datetime import timedelta

import pytest

from core.ids import new_id
from core.sections import Allowance
from gateway.access.admin import AccessOperator
from stack.local import Stack
from tests.gateway.people.site import AUTH, PASSWORD, PeopleSite, Trail, bearer, code_now, names
from tests.stack_fixture import free_ports

pytestmark = pytest.mark.services
REVIEWS = "/api/v1/reviews"


def test_who_is_not_there_costs_and_gets_the_same(site: PeopleSite) -> None:
    """The work that is done is counted, not the time that it takes."""
    there, disabled = site.user("viewer"), site.user("viewer")
    site.operator.disable(disabled)
    answers, costs = [], []
    passwords = site.assembly.people.passwords
    for name in (there, disabled, "nobody-at-all", "no name", "", "a" * 5_00, "ann\x00", "' OR 1=1 --"):
        before = passwords.verifications
        answers.append(site.login(name, "not the password"))
        costs.append(passwords.verifications - before)
    assert costs == [1] * len(answers)
    told = {
        (one.status_code, one.text.replace(one.headers["x-request-id"], "ID"), tuple(sorted(one.headers)))
        for one in answers
    }
    assert len(told) == 1
    assert answers[0].status_code == 401
    assert answers[0].json()["code"] == "login_failed"


def test_a_disabled_user_is_told_nothing_else_with_the_right_password(site: PeopleSite) -> None:
    name = site.user("viewer")
    site.operator.disable(name)
    right, wrong = site.login(name), site.login(name, "not the password")
    assert right.json()["detail"] == wrong.json()["detail"]
    assert (right.status_code, wrong.status_code) == (401, 401)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("login", {"tenant": "theirs"}),
        ("login", {"roles": ["admin"]}),
        ("login", {"scope": "models:write"}),
        ("login", {"admin": True}),
        ("login", {"session": "0" * 32}),
        ("refresh", {"roles": ["admin"]}),
        ("refresh", {"tenant": "theirs"}),
        ("challenge", {"user": "somebody"}),
        ("logout", {"user": "user:somebody"}),
        ("second-factor", {"user": "somebody"}),
        ("second-factor/confirm", {"factor_step": 0}),
    ],
)
def test_what_a_body_says_beside_what_it_may_is_refused(
    site: PeopleSite, path: str, more: dict[str, object]
) -> None:
    name = site.user("viewer")
    tokens = site.login(name).json()
    good = {
        "login": {"user": name, "password": PASSWORD},
        "refresh": {"refresh_token": tokens["refresh_token"]},
        "challenge": {"challenge": "x", "code": "123456"},
        "logout": {"everywhere": True},
        "second-factor": {"password": PASSWORD},
        "second-factor/confirm": {"code": "123456"},
    }[path]
    answer = site.post(f"{AUTH}/{path}", tokens["access_token"], {**good, **more})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert next(iter(more)) in answer.text
    assert site.get(REVIEWS, tokens["access_token"]).status_code == 200, "and nothing has happened"


def test_a_tenant_is_that_of_the_user_whatever_is_claimed(site: PeopleSite) -> None:
    access = site.tokens("viewer", tenant=f"theirs-{new_id()}")["access_token"]  # that no review is of
    for headers in ({"x-tenant": "acme"}, {"x-millstream-tenant": "acme"}, {"x-millstream-roles": "admin"}):
        answer = site.bare.get(f"{REVIEWS}?tenant=acme", headers=headers | bearer(access))
        assert answer.status_code == 200
        assert answer.json()["reviews"] == []
        refused = site.bare.post(
            "/api/v1/models/rollback", json={"model": "fraud"}, headers=headers | bearer(access)
        )
        assert refused.status_code == 403


def test_a_key_has_no_sessions_and_a_refresh_token_opens_nothing(site: PeopleSite) -> None:
    refused = site.get(f"{AUTH}/sessions", site.key())
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert site.get(REVIEWS, site.tokens("viewer")["refresh_token"]).status_code == 401


def test_what_is_refused_names_the_permission_and_nothing_that_is_there(site: PeopleSite) -> None:
    access = site.tokens("service")["access_token"]
    there = site.get("/api/v1/training/jobs/fraud", access)
    absent = site.get("/api/v1/training/jobs/absent", access)
    assert (there.status_code, absent.status_code) == (403, 403)
    assert "training:read" in there.json()["detail"]
    assert there.text.replace(there.headers["x-request-id"], "") == absent.text.replace(
        absent.headers["x-request-id"], ""
    )


def test_logins_are_limited_by_account_and_by_address(stack: Stack) -> None:
    few, many = Allowance(per_s=0.001, burst=3), Allowance(per_s=0.001, burst=9)
    (port,) = free_ports(1)
    with PeopleSite(stack.settings, port=port, login_account=few, login_address=many) as site:
        name = site.user("viewer")
        before = site.assembly.people.passwords.verifications
        statuses = [site.login(name, "not the password").status_code for _ in range(4)]
        assert statuses == [401, 401, 401, 429]
        assert site.login(name).status_code == 429, "the right password too"
        assert site.assembly.people.passwords.verifications - before == 3, "what is refused costs nothing"
        absent = [site.login("nobody-at-all").status_code for _ in range(4)]
        assert absent[-1] == 429
        other = site.login(site.user("viewer"))
        assert (other.status_code, other.json()["code"]) == (429, "rate_limited"), "the address' limit"
        assert int(other.headers["retry-after"]) > 1


def test_what_happens_is_told_to_the_trail_without_names_or_secrets(site: PeopleSite) -> None:
    trail, notes = Trail(), site.assembly.people.notes
    before, notes.trail = notes.trail, trail
    try:
        name, secret, _ = site.enrolled("viewer")
        site.login(name, "not the password")
        site.login("nobody-at-all")
        site.answer(site.challenge(name), "000000")
        tokens = site.answer(site.challenge(name), code_now(secret)).json()
        refresh = {"refresh_token": tokens["refresh_token"]}
        for _ in range(2):
            site.bare.post(f"{AUTH}/refresh", json=refresh)
        other = site.login(site.user()).json()
        site.post(f"{AUTH}/logout", other["access_token"])
    finally:
        notes.trail = before
    told = [(event.action, event.outcome, event.reason) for event in trail.events]
    assert told == [
        ("login", "allowed", ""),
        ("second-factor.confirm", "allowed", ""),
        ("login", "denied", "login_failed"),
        ("login", "denied", "login_failed"),
        ("login.challenge", "denied", "wrong_code"),
        ("login", "allowed", ""),
        ("session.reuse", "denied", "refresh_refused"),
        ("login", "allowed", ""),
        ("logout", "allowed", ""),
    ]
    assert [bool(event.actor) for event in trail.events] == [
        True,
        True,
        True,
        False,
        True,
        True,
        True,
        True,
        True,
    ]
    assert all(event.request_id and event.actor.startswith("user:") for event in trail.events if event.actor)
    for hidden in (name, PASSWORD, tokens["access_token"], tokens["refresh_token"].split("_")[3]):
        assert hidden not in str(trail.events)


def test_what_an_operator_does_is_told_too(site: PeopleSite) -> None:
    trail = Trail()
    operator = AccessOperator(site.settings, trail)
    name, role = f"op-{new_id()}", f"r{new_id()}"
    operator.create("acme", name, PASSWORD, ["viewer"])
    operator.create_role("acme", role, ["reviews:read"])
    operator.grant("acme", role, "reviews:write")
    operator.assign(name, role)
    operator.withdraw(name, role)
    operator.revoke("acme", role, "reviews:write")
    operator.set_password(name, "another long password")
    operator.reset_second_factor(name)
    operator.disable(name)
    operator.rotate_signing_key(timedelta(seconds=60))
    assert names(trail.events) == [
        "user.create", "role.create", "role.grant", "role.assign", "role.withdraw", "role.revoke",
        "user.password", "user.second-factor.reset", "user.disable", "signing-key.rotate",
    ]  # fmt: skip
    assert {event.actor for event in trail.events} == {"operator"}
    assert name not in str(trail.events)
