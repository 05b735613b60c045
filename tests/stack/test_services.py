"""The real services: up, status, a kill of each, down and up again with all data there."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from core.settings import settings
from stack.catalog import NAMES, services
from stack.local import Stack
from stack.service import Silent
from tests.stack_fixture import EXTERNAL_ADDRESSES, environment, stack_env

pytestmark = pytest.mark.services

UNITS = ("kafka", "registry", "flink-jobmanager", "flink-taskmanager", "redis", "postgres")
IDLE_MB = 2500.0


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack for one test, which it may take down."""
    with environment(stack_env(tmp_path / "home"), without=EXTERNAL_ADDRESSES):
        own = Stack(settings())
        yield own
        own.down()


def test_status_shows_every_unit_ready_within_the_memory_promised(stack: Stack) -> None:
    rows = {row.name: row for row in stack.status()}
    assert set(rows) >= set(UNITS)
    assert {rows[name].state for name in UNITS} == {"ready"}
    deadline = time.monotonic() + 30
    while any(stack.unit(name).rss_mb == 0 for name in UNITS) and time.monotonic() < deadline:
        time.sleep(0.2)
    used = {name: stack.unit(name).rss_mb for name in UNITS}
    assert all(mb > 1 for mb in used.values()), used
    assert sum(used.values()) <= IDLE_MB, used


def test_everything_listens_on_loopback_only(stack: Stack) -> None:
    pids = {row.pid for row in stack.status()}
    listening = [
        connection
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in pids
    ]
    ports = {port.number for service in services(settings()) for port in service.ports()}
    assert {connection.laddr.port for connection in listening} >= ports
    hosts = {connection.laddr.ip.removeprefix("::ffff:") for connection in listening}
    assert hosts == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["redis", "postgres", "flink-taskmanager", "flink-jobmanager"])
def test_a_killed_service_comes_back_by_itself(stack: Stack, name: str) -> None:
    before = stack.unit(name)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while stack.unit(name).restarts == before.restarts:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stack.wait_ready([name], timeout=60)
    after = stack.unit(name)
    assert after.pid != before.pid
    assert any(reason.text == "exited: signal SIGKILL" for reason in after.reasons)
    stack.wait_ready(timeout=60)  # and nothing else fell over


def test_the_registry_loses_no_schema_that_it_gave_an_id(stack: Stack) -> None:
    base, subject = settings().registry.address, f"test-{uuid.uuid4()}-value"
    schema = {"schema": '{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}'}
    answer = httpx.post(f"{base}/subjects/{subject}/versions", json=schema, timeout=20)
    answer.raise_for_status()
    before = stack.unit("registry")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)  # at once after the answer
    deadline = time.monotonic() + 60
    while stack.unit("registry").restarts == before.restarts:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stack.wait_ready(["registry"], timeout=90)
    assert httpx.get(f"{base}/schemas/ids/{answer.json()['id']}", timeout=20).status_code == 200


def test_data_survives_a_kill_down_and_up(own_stack: Stack) -> None:
    chosen = {"kafka", "redis", "postgres"}
    own_stack.up(only=chosen)
    given = settings()

    cache = redis.Redis.from_url(given.redis.address)
    cache.set("key", "value")
    with psycopg.connect(given.postgres.address) as connection:
        connection.execute("CREATE TABLE kept (a int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    admin = AdminClient({"bootstrap.servers": given.kafka.address})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
    producer = Producer({"bootstrap.servers": given.kafka.address, "acks": "all"})
    producer.produce("kept", b"value")
    assert producer.flush(20) == 0

    for name in sorted(chosen):
        pid = own_stack.unit(name).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    own_stack.down()
    assert own_stack.status() == []
    own_stack.up(only=chosen)

    assert redis.Redis.from_url(given.redis.address).get("key") == b"value"
    with psycopg.connect(given.postgres.address) as connection:
        assert connection.execute("SELECT a FROM kept").fetchall() == [(1,)]
    consumer = Consumer({"bootstrap.servers": given.kafka.address, "group.id": "test"})
    consumer.assign([TopicPartition("kept", 0, 0)])
    message = consumer.poll(20)
    assert message is not None
    assert message.value() == b"value"
    consumer.close()

    own_stack.down(wipe=True)
    assert not given.root.exists()


def test_up_again_changes_nothing_and_up_of_another_adds_it(own_stack: Stack) -> None:
    own_stack.up(only={"redis"})
    before = own_stack.unit("redis")
    own_stack.up(only={"redis", "postgres"})
    assert own_stack.unit("redis").pid == before.pid
    assert own_stack.unit("postgres").state == "ready"


def test_a_service_can_be_driven_by_itself(own_stack: Stack) -> None:
    own_stack.up(only=set())
    (service,) = services(settings(), {"redis"})
    service.fetch(Silent())
    assert not service.ready().ok
    service.start()
    own_stack.wait_ready(["redis"], timeout=30)
    assert service.ready().ok
    (log,) = service.logs()
    assert "Ready to accept connections" in log.read_text()
    service.stop()
    deadline = time.monotonic() + 20
    while service.ready().ok:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_external_service_is_used_and_not_started(stack: Stack, tmp_path: Path) -> None:
    del stack
    own = stack_env(tmp_path / "home") | {"MILLSTREAM_REDIS__URL": settings().redis.address}
    with environment(own):
        other = Stack(settings())
        try:
            other.up(only={"redis"})
            (row,) = other.status()
            assert (row.name, row.state, row.pid) == ("redis", "external", None)
        finally:
            other.down()


def test_the_catalog_names_what_status_shows(stack: Stack) -> None:
    assert {row.service for row in stack.status()} >= set(NAMES)
