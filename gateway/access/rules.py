"""The rules of one tenant: what its roles may, by pycasbin, and its policies, found by permission and role.

casbin decides by looking at every rule with an expression: 10,000 rules take it a tenth of a second. So it is
asked once, when rules are read, which roles a role builds on (`g`, with the tenant as domain), and every
role's permissions are put down; a decision is a few look-ups. A test holds them against casbin's own answers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import casbin

from gateway.access.policies import Policy
from gateway.access.roles import BUILT_IN, KEY, TOKEN, Role
from gateway.principals import Principal

MODEL = """
[request_definition]
r = sub, dom, act
[policy_definition]
p = sub, dom, act
[role_definition]
g = _, _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub, r.dom) && r.dom == p.dom && r.act == p.act
"""
_KEY, _TOKEN = frozenset({KEY}), frozenset({TOKEN})
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Candidates:
    """What a decision about one permission comes down to: whether roles or scopes give it, and the policies
    that may say otherwise."""

    granted: bool
    denying: tuple[Policy, ...] = ()
    allowing: tuple[Policy, ...] = ()
    by_amount: tuple[Policy, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether no policy has a word in it."""
        return not (self.denying or self.allowing or self.by_amount)


@dataclass
class _Index:
    """Policies by permission, and below that by role; those for every one or everybody apart."""

    by_role: dict[tuple[str | None, str | None], list[Policy]] = field(default_factory=dict)

    def add(self, policy: Policy) -> None:
        for permission in policy.permissions or (None,):
            for role in policy.roles or (None,):
                self.by_role.setdefault((permission, role), []).append(policy)

    def of(self, permission: str, roles: frozenset[str]) -> list[Policy]:
        """Each once."""
        found: dict[str, Policy] = {}
        for one in (permission, None):
            for role in (*roles, None):
                for policy in self.by_role.get((one, role), ()):
                    found[policy.name] = policy
        return list(found.values())


class TenantRules:
    """Those of one tenant; `common` are the policies of all tenants."""

    def __init__(
        self, tenant: str, roles: Iterable[Role], policies: Iterable[Policy], common: Iterable[Policy] = ()
    ) -> None:
        self.tenant = tenant
        self.roles = {**{role.name: role for role in roles}, **BUILT_IN}
        self._permissions = _permissions(enforcer(tenant, self.roles.values()), tenant, self.roles)
        self._index = _Index()
        for policy in policies:
            self._index.add(policy)
        self._common = _Index()
        for policy in common:
            self._common.add(policy)
        self._of_roles: dict[frozenset[str], frozenset[str]] = {}

    def permissions(self, roles: frozenset[str]) -> frozenset[str]:
        """What these roles may together, policies aside."""
        found = self._of_roles.get(roles)
        if found is None:
            if len(self._of_roles) > 1_000:
                self._of_roles.clear()
            found = _NOTHING.union(*(self._permissions.get(role, _NOTHING) for role in roles))
            self._of_roles[roles] = found
        return found

    def candidates(self, principal: Principal, permission: str) -> Candidates:
        """For a principal of this tenant."""
        if principal.session is not None:
            known = principal.roles
            granted = permission in self.permissions(known)
        else:
            known = _TOKEN if principal.signed_with is not None else _KEY
            granted = permission in principal.scopes
        policies = self._index.of(permission, known) + self._common.of(permission, known)
        if not policies:
            return Candidates(granted)
        return Candidates(
            granted,
            denying=tuple(p for p in policies if p.effect == "deny" and p.when.amount_above is None),
            allowing=tuple(p for p in policies if p.effect == "allow"),
            by_amount=tuple(p for p in policies if p.when.amount_above is not None),
        )


def enforcer(tenant: str, roles: Iterable[Role]) -> casbin.Enforcer:
    """casbin's enforcer of a tenant's roles."""
    model = casbin.Model()
    model.load_model_from_text(MODEL)
    made = casbin.Enforcer(model)
    made.enable_auto_build_role_links(False)
    listed = list(roles)
    made.add_policies(
        [[role.name, tenant, permission] for role in listed for permission in sorted(role.permissions)]
    )
    links = [[role.name, parent, tenant] for role in listed for parent in sorted(role.parents)]
    if links:
        made.add_grouping_policies(links)
    made.build_role_links()
    return made


def _permissions(made: casbin.Enforcer, tenant: str, roles: dict[str, Role]) -> dict[str, frozenset[str]]:
    """By role, those of the roles that it builds on included."""
    return {
        name: role.permissions.union(
            *(
                roles[parent].permissions
                for parent in made.get_implicit_roles_for_user(name, tenant)
                if parent in roles
            )
        )
        for name, role in roles.items()
    }
