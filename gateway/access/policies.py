"""Policies: rules on attributes, declared in a TOML file, applied with `millstream policies apply`.

    [[policy]]
    name = "large payments from the office only"
    effect = "deny"
    permissions = ["events:write"]
    roles = ["operator", "key"]          # everybody without; `key` and `token` are those who have scopes

    [policy.when]
    amount_above = 1_000_000
    outside_network = ["10.0.0.0/8"]

`deny` refuses what a role or scope allows, and nothing allows it again. `allow` gives the roles that it names
a permission while its conditions hold; it gives nothing to API keys and tokens, whose scopes are all that
they may, and looks at no amount: that is known only after somebody was let in.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import DeclarationError, UnknownName
from gateway.access.conditions import Conditions, conditions
from gateway.access.roles import KEY, TOKEN
from gateway.principals import SCOPES

EVERY = "*"
MOST = 10_000
_KEYS = ("name", "effect", "permissions", "roles", "when")
_EFFECTS = ("allow", "deny")
_LONGEST = 128


@dataclass(frozen=True)
class Policy:
    """One rule. `permissions` is None for every one, `roles` for everybody."""

    name: str
    effect: Literal["allow", "deny"]
    permissions: frozenset[str] | None
    roles: frozenset[str] | None
    when: Conditions

    def concerns(self, roles: frozenset[str]) -> bool:
        return self.roles is None or not self.roles.isdisjoint(roles)

    def document(self) -> dict[str, Any]:
        """As it was declared, for the store."""
        found: dict[str, Any] = {"name": self.name, "effect": self.effect}
        found["permissions"] = [EVERY] if self.permissions is None else sorted(self.permissions)
        found |= {} if self.roles is None else {"roles": sorted(self.roles)}
        return found | ({"when": dict(self.when.given)} if self.when.given else {})


def read_policies(text: str, *, where: str) -> list[Policy]:
    """Those of a file. Raises DeclarationError, UnknownName with the nearest name."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"no TOML: {error}", where=where) from None
    for key in given.keys() - {"policy"}:
        raise UnknownName("table of a policy file", key, ["policy"], where=where)
    listed = given.get("policy", [])
    if not isinstance(listed, list) or len(listed) > MOST:
        raise DeclarationError(f"no list of at most {MOST} policies", where=where, mend="write [[policy]]")
    found = [policy_of(one, where=f"{where}, policy {n}") for n, one in enumerate(listed, start=1)]
    names = [policy.name for policy in found]
    for name in names:
        if names.count(name) > 1:
            raise DeclarationError(f"two policies are called {name!r}", where=where)
    return found


def policy_of(given: Any, *, where: str) -> Policy:
    """One policy from its document."""
    if not isinstance(given, Mapping):
        raise DeclarationError("no policy", where=where, mend="write it as [[policy]]")
    for key in given:
        if key not in _KEYS:
            raise UnknownName("key of a policy", str(key), _KEYS, where=where)
    name, effect, when = given.get("name"), given.get("effect"), given.get("when", {})
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST:
        raise DeclarationError("a policy without a name", where=where, mend='add name = "..."')
    where = f"{where} ({name})"
    if effect not in _EFFECTS:
        raise UnknownName("effect", str(effect), _EFFECTS, where=where)
    if not isinstance(when, Mapping):
        raise DeclarationError("`when` is no table", where=where)
    permissions = _texts(given, "permissions", where)
    roles = _texts(given, "roles", where) if "roles" in given else None
    for permission in permissions:
        if permission not in SCOPES and permission != EVERY:
            raise UnknownName("permission", permission, [*SCOPES, EVERY], where=where)
    made = Policy(
        name=name,
        effect=effect,
        permissions=None if EVERY in permissions else frozenset(permissions),
        roles=frozenset(roles) if roles is not None else None,
        when=conditions(when, where=where),
    )
    if made.effect == "allow":
        _check_allow(made, where)
    return made


def _check_allow(policy: Policy, where: str) -> None:
    if policy.roles is None or policy.roles & {KEY, TOKEN}:
        raise DeclarationError(
            "`allow` has to name roles, and gives keys and tokens nothing",
            where=where,
            mend='add roles = ["..."]; what a key may are its scopes',
        )
    if policy.when.amount_above is not None:
        raise DeclarationError(
            "`allow` cannot look at an amount, which is known only after somebody was let in",
            where=where,
            mend='give the role the permission, and declare effect = "deny" with amount_above',
        )


def _texts(given: Mapping[str, Any], key: str, where: str) -> Sequence[str]:
    found = given.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise DeclarationError(f"{key} is no list of texts", where=where, mend=f'write {key} = ["..."]')
    return found
