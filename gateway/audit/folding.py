"""Equal refusals in a short time are one entry with a number, so that a flood of them cannot fill the trail.

The first of its kind is told at once. What equals it (tenant, actor or else address, action, reason) within
the interval is counted, and told as one more entry at its end. Kinds are bounded: of those above, what tells
them apart is left away, until they are few again.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from pipelines.audit.event import AuditEvent

MOST_KINDS = 1_000
REPEATS, SINCE, ADDRESS = "repeats", "since", "address"
MANY = "*"

_Kind = tuple[str, str, str, str]


@dataclass(slots=True)
class _Open:
    first: AuditEvent
    ends: float
    repeats: int = 0
    last: AuditEvent | None = None


class Folding:
    """For one thread. `now` is a monotonic clock's, in seconds."""

    def __init__(self, fold_s: float) -> None:
        self._fold_s = fold_s
        self._open: OrderedDict[_Kind, _Open] = OrderedDict()  # by when they end

    def take(self, event: AuditEvent, now: float) -> AuditEvent | None:
        """The event, where it is the first of its kind; None where it was counted."""
        who = event.actor or event.detail.get(ADDRESS, "")
        kind = (event.tenant, who, event.action, event.reason)
        there = self._open.get(kind)
        if there is None and len(self._open) >= MOST_KINDS:
            event = replace(event, tenant="", actor=MANY, target="", action=MANY, request_id="")
            kind = ("", MANY, MANY, event.reason)
            there = self._open.get(kind)
        if there is None or (there.ends <= now and not there.repeats):
            self._open.pop(kind, None)
            self._open[kind] = _Open(event, now + self._fold_s)
            return event
        there.repeats += 1
        there.last = event
        return None

    def due(self, now: float) -> Sequence[AuditEvent]:
        """An entry for each kind whose interval is over, and that was repeated in it."""
        return [told for told in map(self._end, self._over(now)) if told is not None]

    @property
    def next_due(self) -> float | None:
        """When `due` has something to do; None where nothing is open."""
        return next(iter(self._open.values())).ends if self._open else None

    def rest(self) -> Sequence[AuditEvent]:
        """What was counted so far, for the end."""
        return self.due(float("inf"))

    def _over(self, now: float) -> list[_Kind]:
        over = []
        for kind, one in self._open.items():
            if one.ends > now:
                break
            over.append(kind)
        return over

    def _end(self, kind: _Kind) -> AuditEvent | None:
        one = self._open.pop(kind)
        if one.last is None:
            return None
        more = {REPEATS: str(one.repeats), SINCE: one.first.at.isoformat(timespec="milliseconds")}
        return replace(one.last, detail=MappingProxyType({**one.last.detail, **more}))
