"""What a feed makes of Kafka messages."""

from gateway.push.feed import Feed, Fetched
from schemas.catalog.decisions import StatusChange
from schemas.topic import Topic
from tests.gateway.samples import STATUS_CODEC, status_entries

FEED = Feed("results", "fraud", Topic("fraud.transactions.status.v1", StatusChange), STATUS_CODEC)


def fetched(*values: bytes | None) -> list[Fetched]:
    return [Fetched(3, 10 + n, 1_000 + n, value) for n, value in enumerate(values)]


def test_every_message_that_decodes_becomes_an_entry_in_its_order() -> None:
    made = status_entries([("acme", "a", 0), ("other", "b", 1), ("acme", "a", 1)])
    entries = FEED.entries(fetched(*(entry.value for entry in made)))

    assert [(e.tenant, e.id, e.rank, e.key) for e in entries] == [
        (e.tenant, e.id, e.rank, e.key) for e in made
    ]
    assert [(e.partition, e.offset, e.at_ms, e.group) for e in entries] == [
        (3, 10 + n, 1_000 + n, "fraud") for n in range(3)
    ]
    assert [e.record for e in entries] == [e.record for e in made]


def test_what_does_not_decode_is_left_out_and_the_others_stay() -> None:
    (good,) = status_entries([("acme", "a", 1)])
    cut, foreign, empty = good.value[:-3], b"{}", None
    entries = FEED.entries(fetched(cut, good.value, foreign, empty, good.value + b"!"))
    assert [entry.offset for entry in entries] == [11]


def test_a_record_is_read_again_from_its_bytes() -> None:
    (entry,) = status_entries([("acme", "a", 1)])
    change, entry.record = entry.record, None
    assert FEED.record(entry) == change
