"""Policies: what a file may say, and when a policy holds."""

from datetime import UTC, datetime

import pytest

from core.errors import DeclarationError, UnknownName
from gateway.access.conditions import Circumstances, conditions
from gateway.access.policies import policy_of, read_policies

NOON = datetime(2026, 1, 7, 12, 0, tzinfo=UTC)  # a Wednesday
GOOD = """
[[policy]]
name = "large payments from the office only"
effect = "deny"
permissions = ["events:write"]
roles = ["operator", "key"]

[policy.when]
amount_above = 1_000_000
outside_network = ["10.0.0.0/8"]

[[policy]]
name = "analysts may publish in working hours"
effect = "allow"
permissions = ["events:write"]
roles = ["analyst"]
when = { time = "08:00-18:00", weekday = ["mon", "tue", "wed", "thu", "fri"], timezone = "Europe/Berlin" }
"""


def test_a_file_is_read_and_written_as_it_was() -> None:
    first, second = read_policies(GOOD, where="a.toml")
    assert (first.effect, first.when.amount_above) == ("deny", 1_000_000)
    assert policy_of(first.document(), where="again") == first
    assert policy_of(second.document(), where="again") == second


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        (("amount_above", "amount_abov"), "amount_above"),
        (("outside_network", "outside_netwrok"), "outside_network"),
        (("weekday", "weekdays"), "weekday"),
        (("timezone", "time_zone"), "timezone"),
        (('"events:write"', '"event:write"'), "events:write"),
        (('effect = "deny"', 'effect = "denied"'), "deny"),
        (("permissions", "permission"), "permissions"),
        (("[[policy]]", "[[policies]]"), "policy"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(change: tuple[str, str], nearest: str) -> None:
    with pytest.raises(UnknownName) as caught:
        read_policies(GOOD.replace(*change), where="a.toml")
    assert caught.value.nearest == nearest
    assert "a.toml" in (caught.value.where or "")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (('time = "08:00-18:00"', 'time = "8 to 6"'), "time"),
        (('time = "08:00-18:00"', 'time = "08:00-08:00"'), "time"),
        (('"mon"', '"monday"'), "weekday"),
        (("Europe/Berlin", "Europe/Atlantis"), "timezone"),
        (("Europe/Berlin", "../../etc/passwd"), "timezone"),
        (("10.0.0.0/8", "10.0.0.1/8"), "network"),
        (("10.0.0.0/8", "2001:db8::/96"), "network"),
        (("1_000_000", "-1"), "amount_above"),
        (("1_000_000", "true"), "amount_above"),
        (('"large payments from the office only"', '""'), "name"),
        (('roles = ["analyst"]', ""), "allow"),
        (('roles = ["analyst"]', 'roles = ["key"]'), "allow"),
        (('roles = ["analyst"]', "roles = []"), "roles"),
        (('when = { time = "08:00-18:00"', "when = { amount_above = 5"), "amount"),
        (("analysts may publish in working hours", "large payments from the office only"), "two"),
        (("[[policy]]", "[[policy"), "TOML"),
    ],
)
def test_what_makes_no_sense_is_refused(change: tuple[str, str], named: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(DeclarationError) as caught:
        read_policies(GOOD.replace(*change), where="a.toml")
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("when", "given", "holds"),
    [
        ({}, {}, True),
        ({"time": "11:00-12:00"}, {}, False),
        ({"time": "12:00-12:01"}, {}, True),
        ({"time": "22:00-12:01"}, {}, True),
        ({"time": "12:01-12:00"}, {}, False),
        ({"time": "13:00-13:01", "timezone": "Europe/Berlin"}, {}, True),
        ({"weekday": ["wed"]}, {}, True),
        ({"weekday": ["tue", "thu"]}, {}, False),
        ({"weekday": ["thu"], "timezone": "Pacific/Kiritimati"}, {}, True),
        ({"network": ["10.0.0.0/8"]}, {"address": "10.1.2.3"}, True),
        ({"network": ["10.0.0.0/8"]}, {"address": "11.1.2.3"}, False),
        ({"network": ["10.0.0.0/8"]}, {"address": "unknown"}, False),
        ({"outside_network": ["10.0.0.0/8"]}, {"address": "unknown"}, True),
        ({"outside_network": ["10.0.0.0/8"]}, {"address": "10.1.2.3"}, False),
        ({"network": ["2001:db8::/32"]}, {"address": "2001:db8:1:2::/64"}, True),
        ({"data_class": ["restricted"]}, {"data_class": "restricted"}, True),
        ({"data_class": ["restricted"]}, {"data_class": "internal"}, False),
        ({"data_class": ["restricted"]}, {}, False),
        ({"time": "12:00-13:00", "weekday": "tue"}, {}, False),
    ],
)
def test_conditions_hold(when: dict[str, object], given: dict[str, str], holds: bool) -> None:
    found = conditions(when, where="here")
    assert found.hold(Circumstances(NOON, **given)) is holds  # type: ignore[arg-type]
