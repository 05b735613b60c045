"""A trace goes on through a header, and a malformed header starts a new one."""

import re

from core.telemetry.trace import inject, new_traceparent, span

FORM = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-0[0-3]$")


def trace_id(traceparent: str) -> str:
    match = FORM.match(traceparent)
    assert match, traceparent
    return match[1]


def test_a_child_keeps_the_trace_and_changes_the_span() -> None:
    parent = new_traceparent()
    child = new_traceparent(parent)
    assert trace_id(child) == trace_id(parent)
    assert child != parent


def test_a_span_continues_the_header_it_was_given() -> None:
    parent = new_traceparent()
    with span("work", parent=parent) as current:
        assert trace_id(inject(current)) == trace_id(parent)


def test_a_malformed_header_starts_a_new_trace() -> None:
    assert trace_id(new_traceparent("00-zz-1-1"))
