"""Our topics, read by those who know nothing of us: Kafka's own console consumer, and Confluent's client with
the registry."""

import io
import json
import subprocess
import time
from typing import Any

import fastavro
import httpx
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from cli.kafka_commands import TOOLS, command_of
from core.settings import Settings
from tests.contract.clients.conftest import TENANT, Site

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
WITHIN_S = 60.0


def read(settings: Settings, topic: str, count: int) -> list[Any]:
    client = Consumer(
        {
            "bootstrap.servers": settings.kafka.address,
            "group.id": f"plain-{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    client.subscribe([topic])
    found: list[Any] = []
    deadline = time.monotonic() + WITHIN_S
    try:
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} messages"
            messages = client.consume(100, timeout=0.2)
            found += [one for one in messages if one.error() is None and one.value() is not None]  # no tick
    finally:
        client.close()
    return found


@pytest.mark.parametrize("topic", ["source", "results"])
def test_confluents_client_reads_what_we_write(site: Site, topic: str) -> None:
    # seconds; without it an answer that is lost once is waited for without end, with it it is asked again
    registry = SchemaRegistryClient({"url": site.settings.registry.address, "timeout": 10})
    decode = AvroDeserializer(registry)
    declared = getattr(site.plan, topic)
    assert declared.subject in registry.get_subjects()
    context = SerializationContext(declared.name, MessageField.VALUE)
    rows = {}
    for message in read(site.settings, declared.name, len(site.events)):
        row = decode(message.value(), context)
        if topic == "source":
            headers = dict(message.headers())
            assert (headers["ce_id"].decode(), headers["ce_specversion"]) == (row["id"], b"1.0")
        rows[row["id"]] = row
    for event in site.events:
        row = rows[event["id"]]
        assert row["tenant"] == TENANT
        if topic == "source":
            assert (row["card_id"], row["amount_cents"]) == (event["card_id"], event["amount_cents"])
        else:
            assert row["decision"] in ("block", "confirm", "review")


def test_the_wire_format_is_confluents(site: Site) -> None:
    """A zero, four bytes of the schema's id, Avro: read here with nothing but the registry's HTTP."""
    (message, *_) = read(site.settings, site.plan.results.name, 1)
    data = message.value()
    assert data[0] == 0
    answer = httpx.get(f"{site.settings.registry.address}/schemas/ids/{int.from_bytes(data[1:5], 'big')}")
    schema = fastavro.parse_schema(json.loads(answer.raise_for_status().json()["schema"]))
    row = fastavro.schemaless_reader(io.BytesIO(data[5:]), schema, None)
    assert row["tenant"] == TENANT


def run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(errors="replace")  # a value may be printed that is no text


def there(settings: Settings, topic: str, partitions: int) -> int:
    """Messages on a topic, ticks too."""
    client = Consumer({"bootstrap.servers": settings.kafka.address, "group.id": "counting"})
    try:
        marks = [client.get_watermark_offsets(TopicPartition(topic, at)) for at in range(partitions)]
        return sum(end - begin for begin, end in marks)
    finally:
        client.close()


def test_kafkas_own_commands_read_topics_and_messages(site: Site) -> None:
    listed = run(*command_of(site.settings, "topics", ["--list"]))
    assert site.plan.results.name in listed.splitlines()
    source = site.plan.source
    count = there(site.settings, source.name, source.partitions)
    arguments = ["--topic", source.name, "--from-beginning", "--max-messages", str(count)]
    arguments += ["--formatter-property", "print.headers=true", "--formatter-property", "print.key=true"]
    printed = run(*command_of(site.settings, "console-consumer", arguments))
    for event in site.events:
        assert f"ce_id:{event['id']}" in printed
    assert TENANT in printed


def test_kafkas_console_consumer_reads_values_by_the_registry(site: Site) -> None:
    """With a Java deserializer that is not ours; every value is a line of JSON, as Avro writes it."""
    count = len(site.events)
    arguments = ["--topic", site.plan.results.name, "--from-beginning", "--max-messages", str(count)]
    printed = run(*command_of(site.settings, "console-consumer", arguments, avro=True))
    rows = [json.loads(line) for line in printed.splitlines()]
    assert {row["id"] for row in rows} == {event["id"] for event in site.events}
    assert all(row["tenant"] == TENANT for row in rows)


def test_every_tool_is_there(site: Site) -> None:
    for name in TOOLS:
        command = command_of(site.settings, name, ["--help"])
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert "--bootstrap-server" in done.stdout + done.stderr, name
