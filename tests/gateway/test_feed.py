"""What a feed makes of Kafka messages."""

from datetime import UTC, datetime

import msgspec

from gateway.push.feed import Feed, Fetched
from schemas.catalog.conversations import CONVERSATIONS, ConversationEvent
from schemas.catalog.decisions import StatusChange
from schemas.catalog.forecasts import Expected, Forecast
from schemas.catalog.training import STATUS, TrainingStatus
from schemas.codec import RecordCodec
from schemas.record import Record
from schemas.topic import Topic
from tests.gateway.samples import STATUS_CODEC, OneSchema, status_entries

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


def test_a_forecast_is_an_entry_of_its_pipeline_s_channel() -> None:
    codec: RecordCodec[Record] = RecordCodec(Forecast, OneSchema(), "forecasts-value")
    feed = Feed("results", "forecasts", Topic("demand.days.status.v1", Forecast), codec)
    at = datetime(2026, 3, 4, tzinfo=UTC)
    made = Forecast(
        tenant="acme", id="north|1|0", entity="north", pipeline="forecasts", window_start=at, window_end=at,
        sequence=0, expected=[Expected("next_day", at, at, 4.5)], unit="bookings", model="demand",
        model_version="1", made_at=at,
    )  # fmt: skip
    (entry,) = feed.entries(fetched(codec.encode(made)))
    assert (feed.name, entry.tenant, entry.id, entry.rank) == ("results:forecasts", "acme", "north|1|0", 0)
    assert (entry.group, entry.record) == ("forecasts", made)


def test_each_state_of_a_training_is_an_entry_and_a_repeat_of_it_none() -> None:
    codec: RecordCodec[Record] = RecordCodec(TrainingStatus, OneSchema(), STATUS.subject)
    feed = Feed("jobs", None, STATUS, codec)
    at = datetime(2026, 3, 4, tzinfo=UTC)
    queued = TrainingStatus(
        tenant="acme", id="j1", model="fraud", state="queued", created_at=at, changed_at=at
    )
    running = msgspec.structs.replace(queued, state="running", stage="read")
    values = [codec.encode(status) for status in (queued, running, running)]
    entries = feed.entries(fetched(*values))
    assert feed.name == "jobs"
    assert [(entry.id, entry.group, entry.entity) for entry in entries] == [("j1", "fraud", "fraud")] * 3
    assert entries[0].key != entries[1].key == entries[2].key


def test_what_is_said_is_an_entry_of_its_conversation() -> None:
    codec: RecordCodec[Record] = RecordCodec(ConversationEvent, OneSchema(), CONVERSATIONS.subject)
    feed = Feed("chat", None, CONVERSATIONS, codec)
    said = ConversationEvent(
        tenant="acme", id="m1", conversation="c1", role="user", text="Hello.", said_by="k",
        said_at=datetime(2026, 3, 4, tzinfo=UTC),
    )  # fmt: skip
    (entry,) = feed.entries(fetched(codec.encode(said)))
    assert (feed.name, entry.id, entry.group, entry.entity, entry.record) == ("chat", "m1", "c1", "c1", said)
