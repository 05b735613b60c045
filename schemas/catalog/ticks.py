"""Ticks: punctuation of a quiet stream.

Event time moves only with events, so the last events of a stream that goes quiet would wait for the next
one. When a topic is quiet, its clock publishes one tick: "everything up to `at` has been seen".
"""

from datetime import datetime

from schemas.record import Record, record


@record(entity="tenant", time="at", namespace="millstream.control")
class Tick(Record, frozen=True, kw_only=True):
    """No event older than `at` less the disorder bound is expected any more."""

    at: datetime
