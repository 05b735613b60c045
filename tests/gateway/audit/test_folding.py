"""Floods of refusals are bounded and counted; what was allowed is a number per credential and route."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from gateway.audit import counting, folding
from gateway.audit.addresses import kept_address
from gateway.audit.counting import Counting
from gateway.audit.folding import MOST_KINDS, REPEATS, Folding
from gateway.principals import Principal
from pipelines.audit.event import AuditEvent
from tests.gateway.samples import NOW


def refusal(address: str = "192.0.2.1", reason: str = "unauthenticated", **changes: str) -> AuditEvent:
    given = {"tenant": "", "actor": "", "action": "POST /x"} | changes
    return AuditEvent(**given, outcome="denied", at=NOW, reason=reason, detail={"address": address})  # type: ignore[arg-type]


def repeats(events: Sequence[AuditEvent]) -> list[int]:
    return [int(event.detail[REPEATS]) for event in events]


def test_the_first_is_told_at_once_and_its_repeats_as_one_when_the_interval_is_over() -> None:
    kept = Folding(10.0)
    assert kept.take(refusal(), 0.0) is not None
    assert all(kept.take(refusal(), 0.01 * n) is None for n in range(1, 500))
    assert kept.due(9.9) == []
    assert repeats(kept.due(10.0)) == [499]
    assert kept.due(20.0) == []


def test_what_differs_in_who_what_or_why_is_told_by_itself() -> None:
    kept = Folding(10.0)
    different = [
        refusal(),
        refusal("198.51.100.1"),
        refusal(reason="rate_limited"),
        refusal(action="GET /y"),
        refusal(actor="key"),
        refusal(actor="key", tenant="acme"),
    ]
    assert [kept.take(event, 0.0) for event in different] == different
    assert kept.due(10.0) == []


def test_after_the_interval_it_is_told_anew() -> None:
    kept = Folding(10.0)
    kept.take(refusal(), 0.0)
    assert kept.take(refusal(), 10.0) is not None
    assert kept.take(refusal(), 11.0) is None
    assert repeats(kept.rest()) == [1]


def test_a_flood_from_everywhere_is_bounded_and_nothing_of_it_uncounted() -> None:
    kept = Folding(10.0)
    flood = [refusal(f"2001:db8:{n // 65536:x}:{n % 65536:x}::1") for n in range(20_000)]
    told = [event for event in flood if kept.take(event, 0.0) is not None]
    due = kept.due(10.0)
    assert len(told) <= MOST_KINDS + 1
    assert len(told) + sum(repeats(due)) == len(flood)
    assert due[-1].actor == folding.MANY


def test_calls_are_counted_per_credential_and_route() -> None:
    kept = Counting(NOW)
    one, other = Principal("acme", "k1", frozenset()), Principal("acme", "k2", frozenset())
    for _ in range(3):
        kept.called(one, "GET /a")
    kept.called(one, "GET /b")
    kept.called(other, "GET /a")
    told = {event.actor: dict(event.detail) for event in kept.flush(NOW + timedelta(minutes=1))}
    assert {actor: {k: v for k, v in detail.items() if k != "since"} for actor, detail in told.items()} == {
        "k1": {"GET /a": "3", "GET /b": "1"},
        "k2": {"GET /a": "1"},
    }
    assert kept.flush(NOW + timedelta(minutes=2)) == []


def test_more_credentials_than_are_kept_apart_share_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST_CREDENTIALS", 2)
    kept = Counting(NOW)
    for n in range(5):
        kept.called(Principal("acme", f"k{n}", frozenset()), "GET /a")
    told = {event.actor: event.detail["GET /a"] for event in kept.flush(NOW)}
    assert told == {"k0": "1", "k1": "1", "*": "3"}


@pytest.mark.parametrize(
    ("given", "network", "whole"),
    [
        ("192.0.2.17", "192.0.2.0/24", "192.0.2.17"),
        ("::ffff:192.0.2.17", "192.0.2.0/24", "192.0.2.17"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48", "2001:db8:1:2:3::4"),
        ("fe80::1%eth0", "fe80::/48", "fe80::1"),
        ("a text", "", ""),
        ("", "", ""),
    ],
)
def test_of_an_address_no_more_is_kept_than_is_wanted(given: str, network: str, whole: str) -> None:
    assert kept_address(given, "network") == network
    assert kept_address(given, "whole") == whole
    assert kept_address(given, "none") == ""
