"""One connection to PostgreSQL, for a store."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from core.errors import Unavailable
from jobs.writer.errors import BadRecord
from pipelines.tables import create_tables


class PostgresConnection:
    """Keeps one connection, opened at the first call and again after a failure. For one thread.

    Creates the tables on each connect, so that a wiped or replaced database is made ready by itself.
    """

    def __init__(self, url: str, *, application: str = "millstream-writer") -> None:
        self._url = url
        self._application = application
        self._connection: psycopg.Connection[Any] | None = None

    def open(self) -> None:
        with self._open() as connection:
            connection.execute("SELECT 1")

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(psycopg.Error):  # it was broken; the server has dropped it already
                connection.close()

    @contextmanager
    def _open(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection, in autocommit; what the driver raises comes out as this package's errors."""
        try:
            yield self._connected()
        except (psycopg.DataError, psycopg.IntegrityError) as problem:
            raise BadRecord(f"PostgreSQL refuses it: {_line(problem)}") from problem
        except psycopg.Error as problem:
            self.close()
            raise Unavailable(f"PostgreSQL: {_line(problem)}", code="database_unavailable") from problem

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=3,
                application_name=self._application,
                options="-c statement_timeout=15000 -c timezone=UTC",
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                prepare_threshold=2,
            )
            try:
                create_tables(connection)
            except psycopg.Error:
                connection.close()
                raise
            self._connection = connection
            self._opened()
        return self._connection

    def _opened(self) -> None:
        """Called after each connect: forget what was known of the database before."""


def _line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0][:300]
