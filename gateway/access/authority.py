"""The decision: whether a principal may do something now.

    1  the tenant of the credential is the one whose rules are asked; there is no other
    2  a policy that denies and holds: no
    3  a role (of a user) or scope (of a key or token) gives it, or a policy that allows holds: yes
    4  no

Decisions are remembered by tenant, roles or scopes, permission, address and data class, until the minute ends
(times of policies are minutes) or something has changed; a change is followed within `FOLLOWED_S`. Rules of a
tenant are read when they are first asked for. While PostgreSQL is away the last known ones go on for the
setting `people.grace_s`; then, and for tenants that were not seen before, the answer is 503.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace

from core.clock import Clock, SystemClock
from core.errors import Unavailable
from gateway.access.conditions import Circumstances
from gateway.access.policies import Policy
from gateway.access.rules import Candidates, TenantRules
from gateway.access.store import ALL, AccessSource, Rules
from gateway.exchange import Judge
from gateway.principals import OPEN, OWN_SESSIONS, Principal
from gateway.problems import Forbidden

FOLLOWED_S = 0.4
TENANTS, DECISIONS = 1_000, 20_000
_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Decision:
    """`by_amount` has what is still to be asked of each record."""

    allowed: bool
    by_amount: tuple[Policy, ...] = ()


_YES, _NO = Decision(True), Decision(False)
_Key = tuple[str, frozenset[str], bool, bool, str, str, str | None]


class Authority:
    """Belongs to one event loop. Without a source there are the built-in roles, and no policies."""

    def __init__(
        self, source: AccessSource | None = None, *, clock: Clock | None = None, grace_s: float = 300.0
    ) -> None:
        self._source = source
        self._clock = clock or SystemClock()
        self._grace_s = grace_s
        self._rules: OrderedDict[str, TenantRules] = OrderedDict()
        self._common: Rules | None = None
        self._revision: int | None = None
        self._confirmed: float | None = None
        self._generation = 0
        self._following = asyncio.Lock()
        self._pending: dict[str, asyncio.Task[None]] = {}
        self._decided: dict[_Key, Decision] = {}
        self._until = 0.0
        self.unread: set[str] = set()
        """The tenants (`*`: all) of which something has changed, until whoever else follows them has read
        it."""

    async def permit(
        self, principal: Principal, permission: str, *, address: str = "", data_class: str | None = None
    ) -> Judge | None:
        """Raises Forbidden, naming the permission; Unavailable where the rules cannot be known. Where a
        policy looks at amounts: who judges the records of the request."""
        ruled = permission not in OPEN and permission != OWN_SESSIONS
        if ruled and (principal.tenant not in self._rules or not self.fresh):
            await self._require(principal.tenant)
        decision = self.decide(principal, permission, address, data_class)
        if not decision.allowed:
            raise forbidden(permission)
        if not decision.by_amount:
            return None
        circumstances = Circumstances(self._clock.now(), address, data_class)
        return _judge(decision.by_amount, circumstances, permission)

    def decide(
        self, principal: Principal, permission: str, address: str = "", data_class: str | None = None
    ) -> Decision:
        """By the rules as they are known; nothing is allowed to a tenant whose rules are not."""
        if permission in OPEN:
            return _YES
        if permission == OWN_SESSIONS:
            return _YES if principal.session is not None else _NO
        at = self._clock.now()
        now = at.timestamp()
        if now >= self._until or len(self._decided) >= DECISIONS:
            self._decided.clear()
            self._until = now - now % _MINUTE_S + _MINUTE_S
        user = principal.session is not None
        held = principal.roles if user else principal.scopes
        signed = principal.signed_with is not None
        key = (principal.tenant, held, user, signed, permission, address, data_class)
        found = self._decided.get(key)
        if found is None:
            found = self._decide(principal, permission, Circumstances(at, address, data_class))
            self._decided[key] = found
        return found

    @property
    def fresh(self) -> bool:
        """Whether the rules were confirmed within the grace."""
        if self._source is None:
            return True
        confirmed = self._confirmed
        return confirmed is not None and self._clock.monotonic() - confirmed <= self._grace_s

    def knows(self, tenant: str) -> bool:
        """Whether the tenant's rules are there; if not, they are read from now on."""
        if tenant in self._rules:
            return True
        self._loading(tenant)
        return False

    def forget(self) -> None:
        """Forget what was decided; it is decided anew."""
        self._decided.clear()

    async def follow(self) -> Collection[str]:
        """Look whether something has changed, and read it; the tenants of which something has. Raises
        Unavailable."""
        if self._source is None:
            return ()
        async with self._following:
            return await self._follow(self._source)

    async def _follow(self, source: AccessSource) -> Collection[str]:
        begun = self._clock.monotonic()
        revision = await source.revision()
        changed: Collection[str] = ()
        if self._revision is None:
            await self._read_common()
            self.unread.add(ALL)
        elif revision != self._revision:
            # a database that was put back has a lower number: everything is read again
            changed = await source.changed_since(self._revision) if revision > self._revision else (ALL,)
            self._generation += 1
            if ALL in changed:
                await self._read_common()
            for tenant in tuple(self._rules):
                if tenant in changed or ALL in changed:
                    await self._load(tenant)
            self.forget()
            self.unread.update(changed)
        self._revision = revision
        self._confirmed = begun
        return changed

    async def _require(self, tenant: str) -> None:
        """Have the tenant's rules. Raises Unavailable."""
        try:
            if not self.fresh:
                await self.follow()
            if tenant not in self._rules:
                await asyncio.shield(self._loading(tenant))
        except Unavailable as away:
            raise Unavailable(
                "nobody can say now who may do what", code="keys_unavailable", where="PostgreSQL"
            ) from away

    def _loading(self, tenant: str) -> "asyncio.Task[None]":
        pending = self._pending.get(tenant)
        if pending is None:
            pending = asyncio.get_running_loop().create_task(self._load(tenant), name="rules")
            self._pending[tenant] = pending
            pending.add_done_callback(lambda task: self._loaded(tenant, task))
        return pending

    def _loaded(self, tenant: str, task: "asyncio.Task[None]") -> None:
        self._pending.pop(tenant, None)
        if not task.cancelled():
            task.exception()  # whoever waited was told

    async def _load(self, tenant: str) -> None:
        while True:
            generation = self._generation
            rules, common = Rules((), ()), self._common or Rules((), ())
            if self._source is not None:
                rules = await self._source.rules(tenant)
            made = await asyncio.to_thread(TenantRules, tenant, rules.roles, rules.policies, common.policies)
            if generation == self._generation:
                break  # else something was changed meanwhile, perhaps after it was read
        self._rules[tenant] = made
        self._rules.move_to_end(tenant)
        if len(self._rules) > TENANTS:
            self._rules.popitem(last=False)

    async def _read_common(self) -> None:
        if self._source is not None:
            self._common = await self._source.rules(ALL)

    def _decide(self, principal: Principal, permission: str, of: Circumstances) -> Decision:
        rules = self._rules.get(principal.tenant)
        if rules is None:
            return _NO
        found: Candidates = rules.candidates(principal, permission)
        if found.plain:
            return _YES if found.granted else _NO
        if any(policy.when.hold(of) for policy in found.denying):
            return _NO
        if not found.granted and not any(policy.when.hold(of) for policy in found.allowing):
            return _NO
        pending = tuple(policy for policy in found.by_amount if policy.when.hold(of))
        return Decision(True, pending) if pending else _YES


def forbidden(permission: str) -> Forbidden:
    """The one refusal. It names what is missing and nothing of what was asked for."""
    return Forbidden(
        f"the permission {permission!r} is missing",
        mend="use a credential that has it; policies may take it away for a time, a place, an amount",
    )


def _judge(policies: tuple[Policy, ...], of: Circumstances, permission: str) -> Judge:
    def judge(record: object) -> None:
        amount = getattr(record, "amount_cents", None)
        if not isinstance(amount, int):
            return
        for policy in policies:
            above = policy.when.amount_above
            if above is not None and amount > above and policy.when.hold(replace(of, amount=amount)):
                raise forbidden(permission)

    return judge
