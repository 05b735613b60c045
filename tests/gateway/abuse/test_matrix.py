"""The tenant matrix: every route that takes a credential, called by every role, in its own tenant and about
what is another's. What each role may stands here once more, so that a change of roles is seen.

Where the role may, a foreign id is answered as one that names nothing; where it may not, the answer names the
permission and is the same whether there is something or not.
"""

from typing import Any

import httpx
import pytest

from gateway.access.roles import BUILT_IN
from gateway.principals import OPEN, OWN_SESSIONS
from tests.gateway.abuse.routes import ROUTES, method_of, template_of
from tests.gateway.abuse.site import OURS, THEIRS, Site
from tests.gateway.abuse.test_tenants import BODIES, NAMES_OF_ALL, id

pytestmark = pytest.mark.services
__all__ = ["id"]

READS = {
    "transactions:read", "features:read", "reviews:read", "stream:read", "training:read", "models:read"
}  # fmt: skip
MAY: dict[str, set[str]] = {
    "nobody": set(),
    "viewer": READS,
    "analyst": READS | {"reviews:write", "pipelines:ask"},
    "operator": READS | {"events:write", "pipelines:ask", "training:write", "models:write"},
    "service": {"events:write", "pipelines:ask", "features:read", "transactions:read", "stream:read"},
}
TENANTS = (OURS, THEIRS)


class Matrix:
    """A user of each role in each tenant, and what every route takes."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.permission = {
            route.name: route.permission
            for route in site.assembly.router.routes
            if route.permission not in OPEN
        }
        self._tokens = {
            (tenant, role): site.access(site.user(tenant, *([] if role == "nobody" else [role])))
            for tenant in TENANTS
            for role in (*MAY, "admin")
        }

    def may(self, role: str, permission: str) -> bool:
        return role == "admin" or permission == OWN_SESSIONS or permission in MAY[role]

    def call(self, name: str, tenant: str, role: str, path: str, body: Any) -> httpx.Response:
        access = self._tokens[tenant, role]
        if ROUTES[name].user:  # what a call leaves behind is no other call's to find
            access = self.site.access(self.site.user(tenant, *([] if role == "nobody" else [role])))
        headers = {**ROUTES[name].headers, "authorization": f"Bearer {access}"}
        if name == "GET /api/v1/stream":
            path = "/api/v1/stream?channel=nope"
        return self.site.bare.request(method_of(name), path, json=body, headers=headers)


@pytest.fixture(scope="module")
def matrix(site: Site) -> Matrix:
    return Matrix(site)


def test_the_table_has_every_role() -> None:
    assert {*MAY, "admin"} == {*BUILT_IN, "nobody"}


@pytest.mark.parametrize("role", [*MAY, "admin"])
def test_every_route_in_the_own_tenant(matrix: Matrix, role: str) -> None:
    wrong = []
    for tenant in TENANTS:
        for name, permission in matrix.permission.items():
            row = ROUTES[name]
            if row.good is None and matrix.may(role, permission):
                continue  # it would be asked, and nobody answers here
            answer = matrix.call(name, tenant, role, row.path, row.body)
            refused = not matrix.may(role, permission)
            found = matrix.site.wrong(
                answer, 403 if refused else row.good, "forbidden" if refused else None, openai=row.openai
            )
            if refused and permission not in answer.text:
                found.append("does not name the permission")
            wrong += [f"{tenant} {name}: {one}" for one in found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("role", [*MAY, "admin"])
def test_every_route_about_what_is_another_tenants(matrix: Matrix, role: str, id: str) -> None:
    """`id` is that of something of theirs, of every kind; asked for by a user of ours."""
    wrong = []
    named = [name for name in matrix.permission if "{" in name]
    for name in named:
        if any(part in name for part in NAMES_OF_ALL):
            continue  # pipelines, views and models are everybody's
        permission, seen = matrix.permission[name], set()
        for asked in (id, id[:-1] + ("1" if id[-1] != "1" else "2")):
            path = template_of(name).replace("{id}", asked)
            answer = matrix.call(name, OURS, role, path, BODIES.get(name))
            expected = (404, "not_found") if matrix.may(role, permission) else (403, "forbidden")
            wrong += [f"{name}: {one}" for one in matrix.site.wrong(answer, *expected)]
            told = answer.text.replace(asked, "ID").replace(answer.headers["x-request-id"], "REQUEST")
            seen.add((answer.status_code, told))
        if len(seen) != 1:
            wrong.append(f"{name}: {seen}")
    assert not wrong, "\n".join(wrong)
    assert len(named) > 8
