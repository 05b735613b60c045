"""Classes of data: the highest of a topic's own and those of its record's fields."""

from datetime import datetime
from typing import Annotated

import pytest
from msgspec import Meta

from core.errors import UnknownName
from schemas.classes import class_of
from schemas.record import Record, record
from schemas.topic import Topic


@record(entity="card", time="at", namespace="millstream.test")
class Classed(Record, frozen=True, kw_only=True):
    """A record of which one field is worth hiding."""

    card: Annotated[str, Meta(extra={"data_class": "restricted"})]
    at: datetime
    note: Annotated[str, Meta(max_length=5)] = ""


@record(entity="card", time="at", namespace="millstream.test")
class Plain(Record, frozen=True, kw_only=True):
    """A record that says nothing."""

    card: str
    at: datetime


def test_the_highest_counts() -> None:
    assert class_of(Plain) == "internal"
    assert class_of(Plain, "public") == "public"
    assert class_of(Plain, "confidential") == "confidential"
    assert class_of(Classed, "public") == "restricted"
    assert class_of(None, "restricted") == "restricted"


def test_an_unknown_class_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        Topic("a.b.events.v1", Plain, data_class="confidental")
    assert caught.value.nearest == "confidential"
