"""Equal questions are equal however they are written, and different ones never."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.clock import ManualClock
from gateway.asking.cache_key import Questions, answer_key
from gateway.asking.prepare import records
from gateway.intake import Intake
from pipelines.plan import Reuse
from schemas.catalog.models import Route
from schemas.record import Record, record
from tests.gateway.samples import NOW, Payment, payment

DAY = timedelta(days=1)
INTAKE = Intake(Payment, max_age=DAY, max_ahead=DAY, clock=ManualClock(NOW))
PREPARE, QUESTIONS = records(INTAKE), Questions(Payment, Reuse(DAY))
LOADED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SENT = st.fixed_dictionaries(
    {
        "card_id": st.sampled_from(["c-1", "c-2"]),
        "amount_cents": st.integers(0, 2),
        "occurred_at": st.integers(0, 2),
    },
    optional={
        "ratio": st.none() | st.sampled_from([0.5, 1.0, 2.0, 1e-7]),
        "positive": st.integers(0, 1),
        "flag": st.booleans(),
        "item": st.none() | st.fixed_dictionaries({"sku": st.sampled_from(["a", "b"])}),
        "tags": st.lists(st.sampled_from(["x", "y"]), max_size=2),
        "counts": st.dictionaries(st.sampled_from(["k", "l", "m"]), st.integers(0, 1), max_size=3),
    },
)
DEFAULTS: dict[str, Any] = {
    "ratio": None, "positive": 0, "flag": False, "item": None, "tags": [], "counts": {}
}  # fmt: skip


def written(sent: dict[str, Any], dice: Any) -> bytes:
    """The same in one of many ways: order, spaces, defaults, ids, offsets, forms of numbers, escapes."""
    at = NOW + timedelta(milliseconds=sent["occurred_at"])
    zone = timezone(timedelta(hours=dice.randrange(-11, 12)))
    body = sent | {"occurred_at": at.astimezone(zone).isoformat()}
    body |= {name: value for name, value in DEFAULTS.items() if name not in sent and dice.random() < 0.5}
    if isinstance(body.get("ratio"), float) and body["ratio"] == int(body["ratio"]) and dice.random() < 0.5:
        body["ratio"] = int(body["ratio"])
    if isinstance(body.get("counts"), dict):
        body["counts"] = dict(dice.sample(sorted(body["counts"].items()), len(body["counts"])))
    if dice.random() < 0.5:
        body["id"] = f"p-{dice.randrange(10**9)}"
    if dice.random() < 0.5:
        body["tenant"] = "acme"
    names = dice.sample(sorted(body), len(body))
    layout = dice.choice([{}, {"indent": 2}, {"separators": (",", ":")}])
    text = json.dumps({name: body[name] for name in names}, **layout)
    return text.replace('"c-1"', dice.choice(['"c-1"', '"\\u0063-1"'])).encode()


def asked(raw: bytes) -> bytes:
    return QUESTIONS.of(PREPARE(raw, "acme", None).record)


@LOADED
@given(SENT, SENT, st.randoms(use_true_random=False))
def test_questions_are_equal_where_what_was_sent_is(
    one: dict[str, Any], other: dict[str, Any], dice: Any
) -> None:
    first, second = (asked(written(sent, dice)) for sent in (one, other))
    same = json.dumps(DEFAULTS | one, sort_keys=True) == json.dumps(DEFAULTS | other, sort_keys=True)
    assert (first == second) == same


@LOADED
@given(SENT, st.randoms(use_true_random=False))
def test_the_way_it_is_written_makes_no_difference(sent: dict[str, Any], dice: Any) -> None:
    assert len({asked(written(sent, dice)) for _ in range(4)}) == 1


@record(entity="card_id", time="occurred_at", namespace="millstream.test")
class Timed(Record, frozen=True, kw_only=True):
    """More times than one, and a field that changes nothing."""

    card_id: str
    occurred_at: datetime
    opened_at: datetime | None = None
    session: str = ""


def question(reuse: Reuse, **changes: Any) -> bytes:
    given: dict[str, Any] = {"tenant": "acme", "id": "1", "card_id": "c", "occurred_at": NOW}
    return Questions(Timed, reuse).of(Timed(**(given | changes)))


def test_event_times_are_equal_within_a_span_and_other_times_as_instants() -> None:
    exact, tenth = Reuse(DAY), Reuse(DAY, as_of=timedelta(seconds=10))
    micro, second = timedelta(microseconds=400), timedelta(seconds=1)
    assert question(exact) == question(exact, occurred_at=NOW + micro)
    assert question(exact) != question(exact, occurred_at=NOW + second)
    assert question(tenth) == question(tenth, occurred_at=NOW + second)
    assert question(tenth) != question(tenth, occurred_at=NOW - second)
    east = timezone(timedelta(hours=2))
    assert question(exact, opened_at=NOW) == question(exact, opened_at=NOW.astimezone(east))
    assert question(exact, opened_at=NOW) != question(exact, opened_at=NOW + micro)


def test_what_the_pipeline_ignores_is_left_out() -> None:
    ignoring = Reuse(DAY, ignored=("session",))
    assert question(ignoring, session="a") == question(ignoring, session="b")
    assert question(Reuse(DAY), session="a") != question(Reuse(DAY), session="b")


def test_keys_tell_tenants_plans_versions_arms_and_questions_apart() -> None:
    def key(
        tenant: str = "t", plan: str = "p", version: str = "1", arm: str = "a", asked: bytes = b"{}"
    ) -> str:
        return answer_key(tenant, plan=plan, route=Route(version, arm=arm), question=asked)

    others = [key("u"), key(plan="q"), key(version="2"), key(arm="b"), key(asked=b"[]")]
    assert len({key(), *others}) == 6
    assert key(version="1", arm="2") != key(version="12", arm="")


def test_an_id_that_was_made_here_is_known_as_one() -> None:
    def prepared(key: str | None, **more: Any) -> tuple[bool, dict[str, Any]]:
        made = PREPARE(json.dumps(payment(**more)).encode(), "acme", key)
        own = QUESTIONS.own(made.record, made.id)
        return made.fresh, msgspec.json.decode(b"{" + own + b"}")

    at = NOW.astimezone(UTC).isoformat().replace("+00:00", "Z")
    assert prepared("k") == (False, {"id": "k", "record_id": "k", "occurred_at": at})
    assert prepared("k", id="p") == (False, {"id": "k", "record_id": "p", "occurred_at": at})
    assert prepared(None, id="p") == (False, {"id": "p", "record_id": "p", "occurred_at": at})
    fresh, own = prepared(None)
    assert fresh
    assert own["id"] == own["record_id"]
