"""The validator: accepts what the record holds, and names every field that is wrong, never only the first."""

import json
from contextlib import nullcontext
from datetime import timedelta
from typing import Annotated, Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import ManualClock
from core.errors import Malformed, Rejected
from gateway import strict_json
from gateway.intake import MAX_ITEMS, MOST_PROBLEMS, Intake, tighten
from gateway.strict_json import MAX_DEPTH
from tests.gateway.samples import NOW, Payment, payment

INTAKE = Intake(Payment, max_age=timedelta(days=7), max_ahead=timedelta(minutes=5), clock=ManualClock(NOW))


def read(body: Any) -> Payment:
    found = INTAKE.read(json.dumps(body).encode(), "acme")
    assert isinstance(found, Payment)
    return found


def refused(body: Any) -> dict[str, str]:
    with pytest.raises(Rejected) as caught:
        read(body)
    return caught.value.fields


def test_tenant_comes_from_the_credential_and_an_id_is_made() -> None:
    first, second = read(payment()), read(payment())
    assert first.tenant == "acme"
    assert first.id != second.id


def test_a_given_id_and_the_own_tenant_are_kept() -> None:
    found = read(payment(id="order:7", tenant="acme"))
    assert (found.id, found.tenant, found.amount_cents) == ("order:7", "acme", 1250)


# One way to break each field, and the pointer that must be named. `None` as a value means: leave it out.
FAULTS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "card_id": [
        ({"card_id": 5}, "/card_id"),
        ({"card_id": ""}, "/card_id"),
        ({"card_id": "a\x00"}, "/card_id"),
    ],
    "amount_cents": [
        ({"amount_cents": "5"}, "/amount_cents"),
        ({"amount_cents": 1.5}, "/amount_cents"),
        ({"amount_cents": 2**63}, "/amount_cents"),
        ({"amount_cents": -(2**63) - 1}, "/amount_cents"),
        ({"amount_cents": True}, "/amount_cents"),
    ],
    "occurred_at": [
        ({"occurred_at": 5}, "/occurred_at"),
        ({"occurred_at": "yesterday"}, "/occurred_at"),
        ({"occurred_at": "2026-01-01T12:00:00"}, "/occurred_at"),
        ({"occurred_at": (NOW - timedelta(days=7, seconds=1)).isoformat()}, "/occurred_at"),
        ({"occurred_at": (NOW + timedelta(minutes=5, seconds=1)).isoformat()}, "/occurred_at"),
    ],
    "small": [({"small": 2**31}, "/small"), ({"small": None}, "/small")],
    "ratio": [({"ratio": "x"}, "/ratio")],
    "single": [({"single": 1e39}, "/single")],
    "positive": [({"positive": -1}, "/positive"), ({"positive": 2**63}, "/positive")],
    "kind": [({"kind": "cheque"}, "/kind")],
    "flag": [({"flag": 1}, "/flag")],
    "item": [
        ({"item": {"weights": []}}, "/item/sku"),
        ({"item": {"sku": "a", "weights": [1, "x"]}}, "/item/weights/1"),
        ({"item": []}, "/item"),
        ({"item": {"sku": "a", "x/y": 1}}, "/item/x~1y"),
    ],
    "tags": [({"tags": ["a", 1]}, "/tags/1"), ({"tags": "a"}, "/tags"), ({"tags": ["\x00"]}, "/tags/0")],
    "counts": [({"counts": {"a~b": "x"}}, "/counts/a~0b")],
    "tenant": [({"tenant": "other"}, "/tenant"), ({"tenant": 5}, "/tenant")],
    "id": [({"id": "a b"}, "/id"), ({"id": "x" * 129}, "/id"), ({"id": ""}, "/id"), ({"id": None}, "/id")],
    "unknown": [({"amount": 5}, "/amount")],
}


@pytest.mark.parametrize("fault", [fault for faults in FAULTS.values() for fault in faults], ids=str)
def test_each_fault_is_named_alone(fault: tuple[dict[str, Any], str]) -> None:
    change, pointer = fault
    assert set(refused(payment(**change))) == {pointer}


@given(st.fixed_dictionaries({}, optional={name: st.sampled_from(faults) for name, faults in FAULTS.items()}))
def test_every_fault_is_named_and_nothing_else(chosen: dict[str, tuple[dict[str, Any], str]]) -> None:
    body = payment()
    for change, _ in chosen.values():
        body |= change
    if not chosen:
        read(body)
        return
    assert set(refused(body)) == {pointer for _, pointer in chosen.values()}


def test_missing_fields_are_all_named() -> None:
    assert set(refused({})) == {"/card_id", "/occurred_at", "/amount_cents"}


def test_an_unknown_field_is_told_the_nearest_name() -> None:
    assert "amount_cents" in refused(payment(amount_cent=5))["/amount_cent"]


@pytest.mark.parametrize("at", [NOW - timedelta(days=7), NOW + timedelta(minutes=5)])
def test_bounds_of_the_time_are_included(at: Any) -> None:
    found = read(payment(occurred_at=at.isoformat()))
    assert found.occurred_at == at


@pytest.mark.parametrize("body", ["[]", "5", "null", '"x"'])
def test_something_else_than_an_object_is_refused_as_a_whole(body: str) -> None:
    with pytest.raises(Rejected) as caught:
        INTAKE.read(body.encode(), "acme")
    assert set(caught.value.fields) == {""}


EVENTS = st.fixed_dictionaries(
    {
        "card_id": st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=64
        ),
        "occurred_at": st.integers(-7 * 86400, 300).map(lambda s: (NOW + timedelta(seconds=s)).isoformat()),
        "amount_cents": st.integers(-(2**63), 2**63 - 1),
    },
    optional={
        "small": st.integers(-(2**31), 2**31 - 1),
        "ratio": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "single": st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        "kind": st.sampled_from(["card", "cash"]),
        "tags": st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), max_size=4
        ),
        "item": st.none()
        | st.fixed_dictionaries({"sku": st.just("a"), "weights": st.lists(st.integers(0, 9))}),
    },
)


@given(EVENTS, st.sampled_from([None, 1]))
def test_every_valid_event_is_read_as_it_is(event: dict[str, Any], indent: int | None) -> None:
    found = INTAKE.read(json.dumps(event, indent=indent).encode(), "acme")
    assert isinstance(found, Payment)
    built = msgspec.to_builtins(found)
    expected = dict(event, occurred_at=found.occurred_at.isoformat().replace("+00:00", "Z"))
    item = expected.get("item")
    if item is not None:
        expected["item"] = {"sku": item["sku"], "weights": item["weights"]}
    assert {name: built[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"card_id":"a","card_id":"a"}', "duplicate_key"),
        (b'{"item":{"sku":"a","sku":"b"}}', "duplicate_key"),
        (b'{"card_id":"a","\\u0063ard_id":"b"}', "duplicate_key"),
        (b'{"ratio":NaN}', "malformed_body"),
        (b'{"ratio":-Infinity}', "malformed_body"),
        (b'{"ratio":1e999}', "malformed_body"),
        (b'{"card_id":"\\ud800"}', "malformed_body"),
        (b'{"card_id":"\xff"}', "malformed_body"),
        (b'{"card_id":"a"', "malformed_body"),
        (b'{"card_id":"a"} x', "malformed_body"),
        (b"\xef\xbb\xbf{}", "malformed_body"),
        (b"", "malformed_body"),
        (b"[" * 1000 + b"]" * 1000, "too_deep"),
        (b'{"a":' * 200_000, "too_deep"),
    ],
)
def test_what_is_no_strict_json_is_malformed(raw: bytes, code: str) -> None:
    with pytest.raises(Malformed) as caught:
        INTAKE.read(raw, "acme")
    assert caught.value.code == code


def test_a_duplicate_key_in_an_otherwise_valid_event_is_malformed() -> None:
    raw = json.dumps(payment()).encode()[:-1] + b', "amount_cents": 1250}'
    with pytest.raises(Malformed):
        INTAKE.read(raw, "acme")


OPTIONAL: dict[str, Any] = {
    "id": "1", "tenant": "acme", "small": 1, "ratio": 0.5, "single": None, "positive": 2, "kind": "cash",
    "flag": True, "item": {"sku": "a"}, "tags": ["b"], "counts": {"a": 1},
}  # fmt: skip


@given(st.sets(st.sampled_from(sorted(OPTIONAL))), st.data())
def test_a_key_that_comes_again_is_found_whatever_else_is_there(names: set[str], data: st.DataObject) -> None:
    event = payment(**{name: OPTIONAL[name] for name in names})
    parts = [f"{json.dumps(name)} : {json.dumps(value)}" for name, value in event.items()]
    assert INTAKE.read(f"{{{','.join(parts)}}}".encode(), "acme").tenant == "acme"
    again = data.draw(st.sampled_from(parts))
    with pytest.raises(Malformed) as caught:
        INTAKE.read(f"{{{','.join([*parts, again])}}}".encode(), "acme")
    assert caught.value.code == "duplicate_key"


def test_so_many_problems_are_named_and_no_more() -> None:
    found = refused(payment(tags=list(range(MAX_ITEMS)), **{f"unknown_{n}": n for n in range(500)}))
    assert MOST_PROBLEMS <= len(found) <= MOST_PROBLEMS + len(FAULTS)


def test_a_list_has_an_end() -> None:
    assert len(read(payment(tags=["a"] * MAX_ITEMS)).tags) == MAX_ITEMS
    fault = refused(payment(tags=["a"] * (MAX_ITEMS + 1)))
    assert fault == {"/tags": f"more than {MAX_ITEMS} items"}


class Sized(Payment, frozen=True, kw_only=True):
    few: Annotated[list[int], msgspec.Meta(max_length=2)] = []
    some: Annotated[list[int], msgspec.Meta(min_length=1)]


def test_a_length_that_is_declared_stays() -> None:
    types = {name: tighten(hint) for name, hint in get_type_hints(Sized, include_extras=True).items()}
    for name, longest in (("few", 2), ("some", MAX_ITEMS)):
        decoder = msgspec.json.Decoder(types[name])
        assert len(decoder.decode(json.dumps([1] * longest).encode())) == longest
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(json.dumps([1] * (longest + 1)).encode())


@pytest.mark.parametrize(
    ("raw", "deep"),
    [
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, False),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), True),
        (b'["' + b"[{" * 100 + b'"]', False),
        (b'["a\\"", ' + b'"' + b"[" * 100 + b'"]', False),
        (b"[" + b"[]," * 100 + b"[]]", False),
        (b'{"a":' * 33 + b"1" + b"}" * 33, True),
    ],
)
def test_only_what_is_nested_is_deep(raw: bytes, deep: bool) -> None:
    with pytest.raises(Malformed, match="deeper") if deep else nullcontext():
        strict_json.parse(raw)
    assert not (deep and strict_json.is_plainly_strict(raw))


BLANKS = st.sampled_from(["", "", " ", "\n", " \t\r "])
NAMES = st.text('ab:"\\{} \n', max_size=3)


@st.composite
def texts(draw: st.DrawFn, depth: int = 2) -> str:
    """JSON with blanks anywhere, keys that come again, and strings that look like keys."""
    between = BLANKS
    kind = draw(st.sampled_from(("string", "number", "list", "object") if depth else ("string", "number")))
    if kind == "string":
        return json.dumps(draw(NAMES))
    if kind == "number":
        return draw(st.sampled_from(["1", "-0", "1.50", "1e2", "null", "true"]))
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        name = f"{json.dumps(draw(NAMES))}{draw(between)}:" if kind == "object" else ""
        parts.append(draw(between) + name + draw(between) + draw(texts(depth - 1)) + draw(between))
    return ("{%s}" if kind == "object" else "[%s]") % ",".join(parts)


@given(texts())
def test_what_is_plainly_strict_is_strict(text: str) -> None:
    try:
        strict_json.parse(text.encode())
    except Malformed:
        assert not strict_json.is_plainly_strict(text.encode())


@given(st.dictionaries(st.text("abc", max_size=4), st.integers() | st.text("abc:{ ")), st.booleans())
def test_what_is_ordinary_is_plainly_strict(event: dict[str, Any], spaced: bool) -> None:
    text = json.dumps(event, separators=(", ", " : ") if spaced else (",", ":"))
    plain = not any(isinstance(value, str) and value.lstrip()[:1] == ":" for value in event.values())
    assert strict_json.is_plainly_strict(text.encode()) == plain


def test_objects_in_objects_may_be_plainly_strict() -> None:
    assert strict_json.is_plainly_strict(json.dumps(payment(item={"sku": "a"}, counts={"a": 1})).encode())
    assert not strict_json.is_plainly_strict(b'{"item":{"sku":"a","sku" :"b"},"tags":["{"]}')
