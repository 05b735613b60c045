"""Roles and policies on a real gateway: a change counts within a second, on sockets too; what they refuse
is refused record by record; and who asked goes on with what is published."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from cli import access_commands, user_commands
from core.ids import new_id
from gateway.access.admin import AccessOperator
from gateway.access.policies import policy_of
from schemas.headers import header
from tests.gateway.people.site import PASSWORD, PeopleSite, Trail, bearer, until
from tests.gateway.running import on_the_topic, transaction

pytestmark = pytest.mark.services
EVENTS, REVIEWS = "/api/v1/pipelines/fraud/events", "/api/v1/reviews"


@pytest.fixture
def tenant(operator: AccessOperator) -> Iterator[str]:
    """A tenant of the test's own."""
    name = f"t-{new_id()}"
    yield name
    operator.apply_policies(name, [])


@pytest.fixture
def operator(site: PeopleSite) -> AccessOperator:
    return AccessOperator(site.settings, Trail())


def deny(**more: Any) -> Any:
    document = {"name": "no", "effect": "deny", "permissions": ["events:write"], "when": {}} | more
    return policy_of(document, where="test")


def test_a_role_of_a_tenants_own_is_granted_revoked_and_assigned(
    site: PeopleSite, operator: AccessOperator, tenant: str
) -> None:
    operator.create_role(tenant, "reader", ["reviews:read"])
    name = site.user(tenant=tenant)
    access = site.login(name).json()["access_token"]
    assert site.get(REVIEWS, access).status_code == 403
    operator.assign(name, "reader")
    until(lambda: site.get(REVIEWS, access).status_code == 200, "the role counts")
    operator.revoke(tenant, "reader", "reviews:read")
    until(lambda: site.get(REVIEWS, access).status_code == 403, "the permission is gone")
    operator.grant(tenant, "reader", "reviews:read")
    until(lambda: site.get(REVIEWS, access).status_code == 200, "it is back")
    operator.withdraw(name, "reader")
    until(lambda: site.get(REVIEWS, access).status_code == 403, "the role is gone")


def test_a_policy_refuses_keys_and_users_alike_and_is_followed(
    site: PeopleSite, operator: AccessOperator, tenant: str
) -> None:
    access, key = site.tokens("operator", tenant=tenant)["access_token"], site.key(tenant)
    for credential in (access, key):
        assert site.post(EVENTS, credential, transaction()).status_code == 202
    operator.apply_policies(tenant, [deny(when={"outside_network": ["192.0.2.0/24"]})])
    for credential in (access, key):
        until(lambda c=credential: site.post(EVENTS, c, transaction()).status_code == 403, "it is refused")
        refused = site.post(EVENTS, credential, transaction())
        assert "events:write" in refused.json()["detail"]
        assert "192.0.2" not in refused.text
    operator.apply_policies(tenant, [deny(when={"network": ["192.0.2.0/24"]})])
    until(lambda: site.post(EVENTS, access, transaction()).status_code == 202, "it is not any more")


def test_the_address_is_the_clients_behind_a_trusted_proxy(
    site: PeopleSite, operator: AccessOperator, tenant: str
) -> None:
    operator.apply_policies(tenant, [deny(when={"outside_network": ["192.0.2.0/24"]})])
    key = site.key(tenant)
    until(lambda: site.post(EVENTS, key, transaction()).status_code == 403, "from outside")
    inside = {"x-forwarded-for": "192.0.2.7"} | bearer(key)
    assert site.bare.post(EVENTS, json=transaction(), headers=inside).status_code == 202
    invented = {"x-forwarded-for": "192.0.2.7, 198.51.100.1"} | bearer(key)
    assert site.bare.post(EVENTS, json=transaction(), headers=invented).status_code == 403


def test_an_amount_is_refused_event_by_event_over_http_and_sockets(
    site: PeopleSite, operator: AccessOperator, tenant: str
) -> None:
    operator.apply_policies(tenant, [deny(when={"amount_above": 100_000})])
    key = site.key(tenant)
    big = transaction(amount_cents=100_001)
    until(lambda: site.post(EVENTS, key, big).status_code == 403, "a large one")
    assert site.post(EVENTS, key, transaction(amount_cents=100_000)).status_code == 202
    several = site.post(EVENTS, key, [transaction(), big, transaction()])
    assert [one["status"] for one in several.json()["outcomes"]] == [202, 403, 202]
    url = site.url.replace("http", "ws") + "/api/v1/stream"
    with connect(url, additional_headers=bearer(key)) as socket:
        socket.send('{"type":"connect"}')
        socket.recv(20)
        socket.send(json.dumps({"type": "publish", "id": "1", "pipeline": "fraud", "data": big}))
        assert json.loads(socket.recv(20))["problem"]["code"] == "forbidden"


def test_a_class_of_data_is_that_of_the_pipelines_topic(
    site: PeopleSite, operator: AccessOperator, tenant: str
) -> None:
    operator.apply_policies(tenant, [deny(when={"data_class": ["confidential"]})])
    key = site.key(tenant)
    until(lambda: site.post(EVENTS, key, transaction()).status_code == 403, "card payments are confidential")
    event = {
        "user_id": "u",
        "region": "north",
        "kind": "search",
        "occurred_at": datetime.now(UTC).isoformat(),
    }
    assert site.post("/events", key, event).status_code == 202


def test_a_socket_ends_with_the_permission_that_it_lives_by(
    site: PeopleSite, operator: AccessOperator, tenant: str
) -> None:
    operator.create_role(tenant, "listener", ["stream:read"])
    name = site.user(tenant=tenant)
    operator.assign(name, "listener")
    access = site.login(name).json()["access_token"]
    url = site.url.replace("http", "ws") + "/api/v1/stream"
    with connect(url, additional_headers=bearer(access)) as socket:
        socket.send('{"type":"connect"}')
        assert json.loads(socket.recv(20))["type"] == "connected"
        operator.revoke(tenant, "listener", "stream:read")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4403
    assert "stream:read" in closed.value.rcvd.reason


def test_who_asked_goes_on_with_what_is_published(site: PeopleSite) -> None:
    tokens = site.tokens("operator", "viewer")
    id = new_id()
    headers = {"x-request-id": f"req-{id}", "x-millstream-user": "somebody else"}
    answer = site.bare.post(EVENTS, json=transaction(id=id), headers=headers | bearer(tokens["access_token"]))
    assert answer.status_code == 202
    found = on_the_topic(site.settings, {id})[id].headers()
    assert header(found, "ce_source") == f"user:{header(found, 'ce_user')}"
    assert header(found, "ce_roles") == "operator,viewer"
    assert header(found, "ce_session") == tokens["session"]
    assert header(found, "ce_requestid") == f"req-{id}"
    of_key = new_id()
    assert site.post(EVENTS, site.key(), transaction(id=of_key)).status_code == 202
    assert header(on_the_topic(site.settings, {of_key})[of_key].headers(), "ce_user") is None


def test_the_commands(site: PeopleSite, tenant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (access_commands, user_commands):
        monkeypatch.setattr(f"{module.__name__}.settings", lambda: site.settings)
    runner, app = CliRunner(), typer.Typer()
    access_commands.register(app)
    user_commands.register(app)

    def run(*words: str, given: str | None = None) -> str:
        result = runner.invoke(app, list(words), input=given)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    def fails(*words: str, given: str | None = None) -> str:
        result = runner.invoke(app, list(words), input=given)
        assert result.exit_code != 0
        return str(result.exception)

    name = f"cli-{new_id()}"
    id = run("users", "create", name, "--tenant", tenant, "--role", "viewer", given=PASSWORD + "\n")
    assert site.login(name).status_code == 200
    assert "no password" in fails("users", "create", f"x-{name}", given="")
    assert "12 to" in fails("users", "create", f"x-{name}", given="short\n")
    assert "already" in fails("users", "create", name, given=PASSWORD + "\n")
    assert "viewer" in fails("users", "create", f"x-{name}", "--role", "viewr", given=PASSWORD + "\n")
    (row,) = json.loads(run("users", "list", "--tenant", tenant, "-o", "json"))
    assert (row["id"], row["roles"], row["state"]) == (id, ["viewer"], "enabled")
    run("users", "passwd", name, given="quite another password\n")
    assert site.login(name).status_code == 401
    run("roles", "create", "own", "--tenant", tenant, "--permission", "reviews:read", "--on", "viewer")
    run("roles", "grant", "own", "models:write", "--tenant", tenant)
    run("roles", "assign", name, "own")
    listed = {one["name"]: one for one in json.loads(run("roles", "list", "--tenant", tenant, "-o", "json"))}
    assert listed["own"]["permissions"] == ["models:write", "reviews:read"]
    assert "built in" in fails("roles", "grant", "viewer", "models:write", "--tenant", tenant)
    assert "models:write" in fails("roles", "grant", "own", "model:write", "--tenant", tenant)
    assert "role name" in fails("roles", "create", "admin", "--tenant", tenant)
    file = tmp_path / "policies.toml"
    file.write_text('[[policy]]\nname = "a"\neffect = "deny"\npermissions = ["*"]\nroles = ["own"]\n')
    assert run("policies", "check", str(file), "--tenant", tenant) == "+ a\n1 changed"
    assert json.loads(run("policies", "list", "--tenant", tenant, "-o", "json")) == []
    assert run("policies", "apply", str(file), "--tenant", tenant) == "+ a\n1 changed"
    assert run("policies", "apply", str(file), "--tenant", tenant) == "nothing changes"
    file.write_text(file.read_text() + "when = { weekdays = ['sat'] }\n")
    assert "weekday" in fails("policies", "apply", str(file), "--tenant", tenant)
    file.write_text("")
    assert run("policies", "apply", str(file), "--tenant", tenant) == "- a\n1 changed"
    run("users", "disable", name)
    run("users", "enable", id)
    run("users", "reset-second-factor", name)
    assert "signs from" in run("users", "rotate-signing-key", "--lead", "30s")
    assert PASSWORD not in run("users", "list")
