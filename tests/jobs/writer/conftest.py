"""A database of its own on the session's stack, for each test that asks for one."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from core.settings import settings
from stack.local import Stack


@pytest.fixture
def database(stack: Stack) -> Iterator[str]:
    """The address of a fresh database; dropped at the end, with whoever is still connected."""
    address = stack.settings.postgres.address
    assert address == settings().postgres.address
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(address, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield make_conninfo(address, dbname=name)
    with psycopg.connect(address, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
