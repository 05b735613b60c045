"""Decisions: held against casbin's own, denied by default, overridden by what denies, and never stale."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from core.clock import ManualClock
from core.errors import Unavailable
from gateway.access.authority import Authority
from gateway.access.policies import Policy, policy_of
from gateway.access.roles import BUILT_IN, Role
from gateway.access.rules import TenantRules, enforcer
from gateway.access.store import Rules
from gateway.principals import (
    ASK,
    EVENTS_WRITE,
    MODELS_WRITE,
    OWN_SESSIONS,
    PUBLIC,
    REVIEWS_READ,
    SCOPES,
    Principal,
)
from gateway.problems import Forbidden
from tests.gateway.samples import NOW


def user(*roles: str, tenant: str = "acme") -> Principal:
    return Principal(tenant, "user:u1", frozenset(), signed_with="k", roles=frozenset(roles), session="s1")


def key(*scopes: str, tenant: str = "acme") -> Principal:
    return Principal(tenant, "key-1", frozenset(scopes))


def deny(name: str = "no", *permissions: str, roles: Sequence[str] = (), **when: Any) -> Policy:
    return _policy("deny", name, permissions, roles, when)


def allow(name: str, *permissions: str, roles: Sequence[str], **when: Any) -> Policy:
    return _policy("allow", name, permissions, roles, when)


def _policy(effect: str, name: str, permissions: Sequence[str], roles: Sequence[str], when: Any) -> Policy:
    document = {"name": name, "effect": effect, "permissions": list(permissions or "*"), "when": when}
    return policy_of(document | ({"roles": list(roles)} if roles else {}), where="test")


class Source:
    """Rules in memory that can be changed, and be away."""

    def __init__(self) -> None:
        self.tenants: dict[str, Rules] = {}
        self.changes: list[str] = []
        self.away = False
        self.read = 0

    def change(self, tenant: str, roles: Sequence[Role] = (), policies: Sequence[Policy] = ()) -> None:
        self.tenants[tenant] = Rules(roles, policies)
        self.changes.append(tenant)

    async def rules(self, tenant: str) -> Rules:
        self._require()
        self.read += 1
        return self.tenants.get(tenant, Rules((), ()))

    async def revision(self) -> int:
        self._require()
        return len(self.changes)

    async def changed_since(self, revision: int) -> Sequence[str]:
        self._require()
        return self.changes[revision:]

    def _require(self) -> None:
        if self.away:
            raise Unavailable("PostgreSQL is away")


@dataclass
class World:
    source: Source
    clock: ManualClock
    authority: Authority

    async def may(self, principal: Principal, permission: str, **more: Any) -> bool:
        try:
            await self.authority.permit(principal, permission, **more)
        except Forbidden as error:
            return repr(permission) not in error.what  # a refusal that does not name it counts as none
        return True


def world() -> World:
    source, clock = Source(), ManualClock(NOW)
    return World(source, clock, Authority(source, clock=clock, grace_s=300))


def test_roles_mean_what_casbin_says_they_mean() -> None:
    chance = random.Random(28)
    permissions = sorted(SCOPES)
    for _ in range(30):
        names = [f"r{n}" for n in range(chance.randint(1, 6))]
        roles = [
            Role(
                name,
                frozenset(chance.sample(permissions, chance.randint(0, 3))),
                # a role may build on itself by others: casbin stops, and so do we
                frozenset(chance.sample([*names, *BUILT_IN], chance.randint(0, 2))) - {name},
            )
            for name in names
        ]
        rules = TenantRules("acme", roles, ())
        judge = enforcer("acme", rules.roles.values())
        for role in rules.roles:
            ours = rules.permissions(frozenset({role}))
            theirs = {one for one in permissions if judge.enforce(role, "acme", one)}
            assert ours == theirs, (role, roles)
            assert not any(judge.enforce(role, "other", one) for one in permissions)


async def test_what_nobody_gave_is_denied() -> None:
    w = world()
    assert not await w.may(user(), REVIEWS_READ)
    assert not await w.may(user("unheard-of"), REVIEWS_READ)
    assert not await w.may(key(), REVIEWS_READ)
    assert await w.may(user("viewer"), REVIEWS_READ)
    assert not await w.may(user("viewer"), MODELS_WRITE)
    assert await w.may(user("analyst"), REVIEWS_READ), "an analyst is a viewer, too"
    assert await w.may(user("viewer", "operator"), MODELS_WRITE)
    assert await w.may(key(MODELS_WRITE), MODELS_WRITE)
    assert await w.may(key(), PUBLIC)


async def test_own_sessions_are_users_own_and_no_role_has_them() -> None:
    w = world()
    assert await w.may(user(), OWN_SESSIONS)
    assert not await w.may(key(*SCOPES, OWN_SESSIONS), OWN_SESSIONS)


async def test_what_denies_overrides_roles_scopes_and_what_allows() -> None:
    w = world()
    w.source.change(
        "acme",
        policies=[deny("no", EVENTS_WRITE), allow("yes", EVENTS_WRITE, roles=["operator"])],
    )
    assert not await w.may(user("operator"), EVENTS_WRITE)
    assert not await w.may(user("admin"), EVENTS_WRITE)
    assert not await w.may(key(EVENTS_WRITE), EVENTS_WRITE)
    assert await w.may(user("admin"), MODELS_WRITE)
    assert await w.may(user("operator", tenant="other"), EVENTS_WRITE)


async def test_a_policy_can_give_a_role_a_permission_for_a_while() -> None:
    w = world()
    w.source.change("acme", policies=[allow("day", EVENTS_WRITE, roles=["viewer"], time="12:00-12:30")])
    assert await w.may(user("viewer"), EVENTS_WRITE)
    assert not await w.may(user("service-none"), EVENTS_WRITE)
    assert not await w.may(key(REVIEWS_READ), EVENTS_WRITE)
    w.clock.advance(timedelta(minutes=30))
    assert not await w.may(user("viewer"), EVENTS_WRITE)


async def test_policies_look_at_place_and_data() -> None:
    w = world()
    w.source.change(
        "acme",
        policies=[
            deny("office", MODELS_WRITE, outside_network=["10.0.0.0/8"]),
            deny("class", ASK, roles=["operator", "key"], data_class=["restricted"]),
        ],
    )
    boss = user("operator")
    assert await w.may(boss, MODELS_WRITE, address="10.0.0.1")
    assert not await w.may(boss, MODELS_WRITE, address="192.0.2.1")
    assert await w.may(boss, MODELS_WRITE, address="10.0.0.1")
    assert not await w.may(boss, ASK, data_class="restricted")
    assert await w.may(boss, ASK, data_class="internal")
    assert not await w.may(key(ASK), ASK, data_class="restricted")
    assert await w.may(user("analyst"), ASK, data_class="restricted")


async def test_an_amount_is_judged_record_by_record() -> None:
    w = world()
    w.source.change("acme", policies=[deny("big", EVENTS_WRITE, roles=["operator"], amount_above=100)])
    judge = await w.authority.permit(user("operator"), EVENTS_WRITE)
    assert judge is not None
    judge(SimpleNamespace(amount_cents=100))
    judge(SimpleNamespace(other=1))
    with pytest.raises(Forbidden):
        judge(SimpleNamespace(amount_cents=101))
    assert await w.authority.permit(key(EVENTS_WRITE), EVENTS_WRITE) is None


async def test_policies_of_all_tenants_hold_for_each() -> None:
    w = world()
    w.source.change("*", policies=[deny("nobody", MODELS_WRITE)])
    assert not await w.may(user("admin"), MODELS_WRITE)
    assert not await w.may(user("admin", tenant="other"), MODELS_WRITE)


async def test_a_change_is_followed_and_only_that_tenant_is_read_again() -> None:
    w = world()
    own = Role("own", frozenset({REVIEWS_READ}))
    w.source.change("acme", roles=[own])
    assert await w.may(user("own"), REVIEWS_READ)
    assert await w.may(user("viewer", tenant="other"), REVIEWS_READ)
    read = w.source.read
    w.source.change("acme", roles=[Role("own", frozenset())])
    assert await w.may(user("own"), REVIEWS_READ), "not looked at yet"
    assert await w.authority.follow() == ["acme"]
    assert not await w.may(user("own"), REVIEWS_READ)
    assert w.source.read == read + 1
    w.source.change("*", policies=[deny("nobody", REVIEWS_READ)])
    await w.authority.follow()
    assert not await w.may(user("viewer", tenant="other"), REVIEWS_READ)


async def test_a_change_stays_to_be_read_until_it_was_whoever_saw_it_first() -> None:
    w = world()
    assert await w.may(user("viewer"), REVIEWS_READ)
    assert w.authority.unread == {"*"}, "who was read before the first look may have changed"
    w.authority.unread.clear()
    w.source.change("acme")
    w.clock.advance(timedelta(seconds=301))
    assert await w.may(user("viewer"), REVIEWS_READ), "a request looked"
    await w.authority.follow()
    assert w.authority.unread == {"acme"}


async def test_a_database_that_was_put_back_is_read_again() -> None:
    w = world()
    w.source.change("acme", policies=[deny("nobody", REVIEWS_READ)])
    w.source.change("acme", policies=[deny("nobody", REVIEWS_READ)])
    assert not await w.may(user("viewer"), REVIEWS_READ)
    w.source.tenants, w.source.changes = {}, ["acme"]
    await w.authority.follow()
    assert await w.may(user("viewer"), REVIEWS_READ)


async def test_a_tenant_cannot_take_a_built_in_role_and_change_it() -> None:
    w = world()
    w.source.change("acme", roles=[Role("viewer", SCOPES)])
    assert not await w.may(user("viewer"), MODELS_WRITE)


async def test_while_the_rules_are_away_the_last_known_go_on_for_the_grace() -> None:
    w = world()
    assert await w.may(user("viewer"), REVIEWS_READ)
    w.source.away = True
    w.clock.advance(timedelta(seconds=299))
    assert await w.may(user("viewer"), REVIEWS_READ)
    with pytest.raises(Unavailable) as caught:
        await w.may(user("viewer", tenant="unseen"), REVIEWS_READ)
    assert caught.value.code == "keys_unavailable"
    w.clock.advance(timedelta(seconds=2))
    with pytest.raises(Unavailable):
        await w.may(user("viewer"), REVIEWS_READ)
    w.source.away = False
    assert await w.may(user("viewer"), REVIEWS_READ)
