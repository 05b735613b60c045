"""What was allowed on the data plane: a number per credential, route and minute, one entry per credential."""

from collections.abc import Sequence
from datetime import datetime

from gateway.principals import Principal
from pipelines.audit.event import AuditEvent
from schemas.headers import rfc3339

CALLS = "calls"
MOST_CREDENTIALS = 5_000
MANY = "*"
_Caller = tuple[str, str]


class Counting:
    """For one thread. `called` is on the path of every request: two look-ups and an addition."""

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._calls: dict[_Caller, dict[str, int]] = {}
        self._many: dict[str, int] = {}

    def called(self, principal: Principal, route: str) -> None:
        """Once more; above 5,000 credentials a minute the further ones share an entry."""
        caller = (principal.tenant, principal.credential)
        calls = self._calls.get(caller)
        if calls is None:
            calls = self._many if len(self._calls) >= MOST_CREDENTIALS else self._calls.setdefault(caller, {})
        calls[route] = calls.get(route, 0) + 1

    def flush(self, at: datetime) -> Sequence[AuditEvent]:
        """The entries of what was counted since the last flush, and begin anew."""
        calls, self._calls = self._calls, {}
        many, self._many = self._many, {}
        since, self._since = self._since, at
        events = [_event(tenant, actor, counts, since, at) for (tenant, actor), counts in calls.items()]
        return [*events, _event("", MANY, many, since, at)] if many else events


def _event(tenant: str, actor: str, counts: dict[str, int], since: datetime, at: datetime) -> AuditEvent:
    detail = {"since": rfc3339(since), **{route: str(count) for route, count in counts.items()}}
    return AuditEvent(tenant, actor, CALLS, "allowed", at, detail=detail)
