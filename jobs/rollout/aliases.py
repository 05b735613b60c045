"""The registry's aliases follow the routing: `champion` serves, `previous` is where a rollback goes. Pure.

An alias that moves is a wish, and the controller deploys it. So that it does not take its own moves for
wishes, it says in the routing what it is going to write (`promoted`) before it writes it, and takes that back
when the registry has been seen to say so:

    a swap ends            active 2, champion 1, promoted [2]    on Kafka
    the alias is moved     champion 1 -> 2, previous -> 1        in the registry
    it is seen there       champion 2, promoted []               on Kafka, noted

Whoever is killed between two of these leaves a routing that says what may have been written; the next one
writes it again, which changes nothing where it is there already.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from jobs.rollout.decision import Decision, active_of, revised, without
from models.store import CHAMPION, PREVIOUS
from schemas.catalog.models import Routing


@dataclass(frozen=True)
class AliasMove:
    """Where both aliases of a model should be. `previous` None: there should be none. The champion is moved
    only from one of `instead_of`: any other was moved there by somebody else, whose wish it is."""

    model: str
    champion: str
    previous: str | None
    instead_of: tuple[str, ...]


def promised(decision: Decision) -> Decision:
    """With the version that serves now among those that the champion's alias is going to be moved to."""
    routing = decision.routing
    if routing is None or routing.operation is not None:
        return decision
    active = active_of(routing)
    newest = routing.promoted[-1] if routing.promoted else routing.champion
    if active is None or active == newest:
        return decision
    promoted = [*without(routing.promoted, active), active]
    return replace(decision, routing=msgspec.structs.replace(routing, promoted=promoted))


def noted(routing: Routing, champion: str, now: datetime) -> Routing:
    """The registry says now what serves. Nothing else changes, so a command that expects the revision before
    is still carried out."""
    reason = f"version {champion} is the registry's champion"
    return revised(routing, now, reason, champion=champion, promoted=[], noted=routing.noted + 1)


def alias_move(routing: Routing, seen: Mapping[str, str]) -> AliasMove | None:
    """What is left to be written, given the aliases that the registry has; None while an operation is under
    way, and where somebody's wish comes first."""
    active = active_of(routing)
    if active is None or routing.operation is not None:
        return None
    champion, previous = seen.get(CHAMPION), seen.get(PREVIOUS)
    if champion != active and not routing.promoted:
        return None
    ours = tuple(without([*([routing.champion] if routing.champion else []), *routing.promoted]))
    if champion not in (None, active, *ours):
        return None
    wanted = routing.previous
    if wanted is None and previous not in (active, *routing.failed):
        wanted = previous  # it may be older than the routing: that it serves no more is not known
    if (champion, previous) == (active, wanted):
        return None
    return AliasMove(routing.model, active, wanted, ours)
