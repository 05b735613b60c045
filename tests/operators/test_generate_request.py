"""Questions: what is in order is understood, what is not is named."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import Malformed, Rejected
from operators.generate_request import Limits, parse

LIMITS = Limits(prompt_bytes=1000, tokens=400, default_tokens=8)


def of(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_prompt_becomes_one_message_of_the_user() -> None:
    asked = parse(of(prompt="Hi", max_tokens=3, stop="x", seed=4, stream=True), LIMITS)
    assert [(m.role, m.content) for m in asked.completion.messages] == [("user", "Hi")]
    assert (asked.completion.max_tokens, asked.completion.stop, asked.completion.seed) == (3, ("x",), 4)
    assert (asked.stream, asked.model, asked.completion.temperature) == (True, None, 0.0)
    assert parse(of(prompt="Hi"), LIMITS).completion.max_tokens == 8


def test_a_conversation_keeps_its_turns() -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    asked = parse(of(messages=messages, max_completion_tokens=5, user="u", n=1), LIMITS)
    assert [(m.role, m.content) for m in asked.completion.messages] == [
        ("system", "Be short."),
        ("user", "ab"),
    ]
    assert asked.completion.max_tokens == 5
    assert asked.completion.temperature is None


@pytest.mark.parametrize(
    ("last", "flag", "goes_on"),
    [
        ("assistant", True, True),
        ("assistant", False, False),
        ("assistant", None, False),
        ("user", True, False),
    ],
)
def test_an_answer_goes_on_after_the_assistants_turn_where_that_is_asked_for(
    last: str, flag: bool | None, goes_on: bool
) -> None:
    messages = [{"role": "user", "content": "Write."}, {"role": last, "content": "Dear si"}]
    given = {} if flag is None else {"continue_final_message": flag}
    asked = parse(of(messages=messages, temperature=0, **given), LIMITS)
    plain = parse(of(messages=messages, temperature=0), LIMITS)
    assert asked.completion.messages == plain.completion.messages
    assert asked.completion.open is goes_on
    assert (asked.key("acme", "m") == plain.key("acme", "m")) is not goes_on


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (of(), "/prompt"),
        (of(prompt=""), "/prompt"),
        (of(prompt=" \n\t "), "/prompt"),
        (of(prompt=7), "/prompt"),
        (of(prompt=None), "/prompt"),
        (of(prompt="x" * 1001), "/prompt"),
        (of(prompt="ä" * 501), "/prompt"),
        (of(prompt="x", max_tokens=0), "/max_tokens"),
        (of(prompt="x", max_tokens=-5), "/max_tokens"),
        (of(prompt="x", max_tokens=401), "/max_tokens"),
        (of(prompt="x", max_tokens=10**30), "/max_tokens"),
        (of(prompt="x", max_tokens=1.5), "/max_tokens"),
        (of(prompt="x", max_tokens=True), "/max_tokens"),
        (of(prompt="x", max_tokens="3"), "/max_tokens"),
        (of(prompt="x", temperature=3), "/temperature"),
        (of(prompt="x", temperature="hot"), "/temperature"),
        (of(prompt="x", temperature=10**400), "/temperature"),
        (b'{"prompt": "x", "top_p": -1%b}' % (b"0" * 400), "/top_p"),
        (of(prompt="x", top_p=0), "/top_p"),
        (of(prompt="x", stop=["a"] * 5), "/stop"),
        (of(prompt="x", stop=[""]), "/stop"),
        (of(prompt="x", model=""), "/model"),
        (of(prompt="x", model=["m"]), "/model"),
        (of(prompt="x", stream="yes"), "/stream"),
        (of(prompt="x", stream=1), "/stream"),
        (of(prompt="x", messages=[]), "/messages"),
        (of(prompt="x", tools=[]), "/tools"),
        (of(messages=[]), "/messages"),
        (of(messages="x"), "/messages"),
        (of(messages=[{"role": "user", "content": "x"}] * 257), "/messages"),
        (of(messages=[{"role": "tool", "content": "x"}]), "/messages/0/role"),
        (of(messages=["x"]), "/messages/0/role"),
        (of(messages=[{"role": "user", "content": ""}]), "/messages/0/content"),
        (of(messages=[{"role": "user"}]), "/messages/0/content"),
        (of(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "/messages/0/content"),
        (of(messages=[{"role": "user", "content": "x"}], n=2), "/n"),
        (
            of(messages=[{"role": "user", "content": "x"}], max_tokens="x", max_completion_tokens=1),
            "/max_tokens",
        ),
        (of(messages=[{"role": "user", "content": "x"}], n=True), "/n"),
        (of(messages=[{"role": "user", "content": "x"}], tools=[]), "/tools"),
        (
            of(messages=[{"role": "user", "content": "x"}], continue_final_message=1),
            "/continue_final_message",
        ),
        (of(prompt="x", continue_final_message=True), "/continue_final_message"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, pointer: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse(body, LIMITS)
    assert list(caught.value.fields) == [pointer]


def test_all_that_is_wrong_is_named() -> None:
    with pytest.raises(Rejected) as caught:
        parse(of(prompt="", max_tokens=-1, top_p=9), LIMITS)
    assert set(caught.value.fields) == {"/prompt", "/max_tokens", "/top_p"}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"7", b'"x"', b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 100_000],
)
def test_what_is_no_object_in_utf_8_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse(body, LIMITS)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["prompt", "messages", "max_tokens", "temperature", "stop", "seed", "model", "n", "x"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_any_object_is_understood_or_refused(fields: dict[str, Any]) -> None:
    body = json.dumps(fields).encode()
    try:
        asked = parse(body, LIMITS)
    except (Rejected, Malformed):
        return
    assert 1 <= asked.completion.max_tokens <= LIMITS.tokens
    assert asked.completion.text.strip()


def test_equal_questions_have_equal_keys_within_a_tenant_and_a_model() -> None:
    one = parse(b'{"prompt": "a", "max_tokens": 3}', LIMITS)
    same = parse(b'{"max_tokens":3,"prompt":"a","stream":true}', LIMITS)
    other = parse(b'{"prompt": "a", "max_tokens": 4}', LIMITS)
    assert one.key("t", "m") == same.key("t", "m")
    keys = {one.key("t", "m"), one.key("u", "m"), one.key("t", "n"), other.key("t", "m")}
    assert len(keys) == 4


def test_only_what_can_be_repeated_is_repeatable() -> None:
    assert parse(of(prompt="x"), LIMITS).repeatable
    assert parse(of(prompt="x", temperature=1, seed=3), LIMITS).repeatable
    assert not parse(of(prompt="x", temperature=1), LIMITS).repeatable
    assert not parse(of(messages=[{"role": "user", "content": "x"}]), LIMITS).repeatable
