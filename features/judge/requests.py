"""Requests for checks: which entity of which tenant is read when, drawn at random from recorded events."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.online.status import Status
from features.view import Value

Key = tuple[str, ...]
"""tenant, then the fields of the entity."""

_ABSENT, _LONG_AFTER, _NEAR = 0.15, 0.15, 0.6
_OWN = 0.3


@dataclass(frozen=True)
class Request:
    """One read at a time in ms, with the own record's `id` and columns if it has one."""

    key: Key
    at_ms: int
    own: Mapping[str, Value] | None = None


def draw(
    happened: Mapping[Key, Sequence[int]],
    spans_ms: Sequence[int],
    columns: Sequence[Mapping[str, Any]],
    *,
    number: int,
    seed: int,
) -> list[Request]:
    """So many requests in order of time, the same for the same seed.

    happened: of each entity the times in ms at which something of it came about. spans_ms: what a value
    depends on (windows, times to live): most requests lie within a millisecond of an event, or of the time at
    which one leaves a span; some anywhere, some up to three of the longest spans after the last event. One in
    seven is for an entity that never was. columns: what an own record may have, empty for none.
    """
    chance = random.Random(seed)
    keys = sorted(happened)
    if not keys:
        return []
    first = min(min(times) for times in happened.values())
    last = max(max(times) for times in happened.values())
    longest = max(spans_ms)
    requests = []
    for count in range(number):
        key = chance.choice(keys)
        at = _time(chance, happened[key], spans_ms, (first - longest, last + longest))
        if chance.random() < _LONG_AFTER:
            at = last + chance.randrange(3 * longest)
        if chance.random() < _ABSENT:
            key = _absent(chance, keys, happened, count)
        own = None
        if columns and chance.random() < _OWN:
            own = {"id": f"request-{count}", **chance.choice(columns)}
        requests.append(Request(key, at, own))
    return sorted(requests, key=lambda request: request.at_ms)


def _time(chance: random.Random, times: Sequence[int], spans: Sequence[int], between: tuple[int, int]) -> int:
    if chance.random() >= _NEAR:
        return chance.randint(*between)
    return chance.choice(times) + chance.choice((0, *spans)) + chance.choice((-1, 0, 1))


def _absent(chance: random.Random, keys: Sequence[Key], happened: Mapping[Key, Any], count: int) -> Key:
    """Another tenant's entity where that is nobody's here, else one that is nobody's at all."""
    tenant, entity = chance.choice(keys)[0], chance.choice(keys)[1:]
    crossed = (tenant, *entity)
    return (tenant, *(f"nobody-{count}" for _ in entity)) if crossed in happened else crossed


@dataclass(frozen=True)
class Answered:
    """What a read said by feature, and what it should have said: the value, whether there was something to
    compute it from that was still good, and whether anything was known of the entity by then."""

    values: Mapping[str, Value]
    statuses: Mapping[str, Status]
    right: Mapping[str, Value]
    there: Mapping[str, bool]
    known: bool
