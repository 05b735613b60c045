"""A taken port is found before anything starts, and its owner is named."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from core.errors import StackError
from core.settings import Kafka as KafkaSettings
from core.settings import Settings
from stack.catalog import services
from stack.ports import refuse_clashes, taken
from stack.service import Port


@pytest.fixture
def listener() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_a_clash_names_port_purpose_owner_and_the_variable_that_mends_it(listener: int) -> None:
    with pytest.raises(StackError) as caught:
        refuse_clashes([Port(listener, "Kafka broker", "MILLSTREAM_KAFKA__PORT")])
    text = str(caught.value)
    assert caught.value.code == "port_taken"
    assert f"port {listener} (Kafka broker)" in text
    assert f"process {os.getpid()}" in text
    assert "MILLSTREAM_KAFKA__PORT=<port>" in text


def test_every_clash_is_told_at_once(listener: int) -> None:
    with closing(socket.create_server(("0.0.0.0", 0))) as everywhere:
        second = everywhere.getsockname()[1]
        with pytest.raises(StackError) as caught:
            refuse_clashes([Port(listener, "one", "A"), Port(second, "two", "B")])
    assert f"port {listener}" in caught.value.what
    assert f"port {second}" in caught.value.what


def test_ports_of_our_own_processes_are_no_clash(listener: int) -> None:
    refuse_clashes([Port(listener, "one", "A")], frozenset({os.getpid()}))


def test_a_free_port_is_free(listener: int) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        number = server.getsockname()[1]
        assert taken(number)
    assert not taken(number)
    refuse_clashes([Port(number, "one", "A")])


def test_two_services_on_one_port_are_refused() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        number = server.getsockname()[1]
    settings = Settings(kafka=KafkaSettings(port=number, controller_port=number))
    ports = [port for service in services(settings, {"kafka"}) for port in service.ports()]
    with pytest.raises(StackError, match="Kafka broker as well"):
        refuse_clashes(ports)
