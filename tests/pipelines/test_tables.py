"""The tables on a real PostgreSQL: made once however often asked, partitioned, one write path."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pipelines.tables import (
    create_tables,
    ensure_partitions,
    insert_from_arrays,
    timescale_available,
    week_of,
)

NOW = datetime(2026, 3, 4, 10, tzinfo=UTC)


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def partitions(connection: psycopg.Connection[Any]) -> set[str]:
    rows = connection.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'predictions'::regclass"
    ).fetchall()
    return {row[0] for row in rows}


def predict(connection: psycopg.Connection[Any], id: str, at: datetime) -> None:
    connection.execute(
        "INSERT INTO predictions (tenant, id, pipeline, entity, occurred_at, decided_at, stored_at, decision,"
        " status, model, model_version, arm, assignment_unit, degraded, level, late, reasons, queue_ms,"
        " model_ms, decide_ms) VALUES ('t', %s, 'p', 'e', %s, %s, %s, 'd', 's', 'm', '1', 'a', '', false,"
        " 'live', false, '[]', 0, 0, 0)",
        (id, at, at, at),
    )


def test_a_week_begins_on_monday() -> None:
    monday = datetime(2026, 3, 2, tzinfo=UTC)
    assert week_of(monday) == week_of(NOW) == week_of(monday + timedelta(days=6, hours=23)) == monday
    assert week_of(monday - timedelta(microseconds=1)) == monday - timedelta(days=7)


def test_the_write_path_takes_one_list_per_column() -> None:
    sql = insert_from_arrays("t", {"id": "text", "n": "real"}, "ON CONFLICT (id) DO NOTHING")
    assert sql == (
        "INSERT INTO t (id, n)\nSELECT * FROM unnest(%b::text[], %s::real[]) AS given(id, n)\n"
        "ON CONFLICT (id) DO NOTHING"
    )


@pytest.mark.services
def test_created_again_changes_nothing(connection: psycopg.Connection[Any]) -> None:
    create_tables(connection, now=NOW)
    predict(connection, "1", NOW)
    before = partitions(connection)
    create_tables(connection, now=NOW)
    assert partitions(connection) == before
    assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (1,)


@pytest.mark.services
def test_racing_starters_all_succeed(database: str) -> None:
    errors: list[Exception] = []
    barrier = threading.Barrier(6)

    def start() -> None:
        with psycopg.connect(database, autocommit=True) as mine:
            barrier.wait(timeout=30)
            try:
                create_tables(mine, now=NOW)
            except Exception as problem:
                errors.append(problem)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []


@pytest.mark.services
def test_weeks_are_made_as_needed_and_absurd_times_share_one_partition(
    connection: psycopg.Connection[Any],
) -> None:
    create_tables(connection, now=NOW)
    if timescale_available(connection):
        pytest.skip("predictions is a hypertable here")
    assert partitions(connection) == {"predictions_rest", "predictions_20260302", "predictions_20260309"}
    month_ago, absurd = NOW - timedelta(days=30), datetime(2999, 1, 1, tzinfo=UTC)
    ensure_partitions(connection, [month_ago, absurd], now=NOW)
    assert "predictions_20260202" in partitions(connection)
    predict(connection, "old", month_ago)
    predict(connection, "absurd", absurd)
    assert connection.execute("SELECT id FROM predictions_20260202").fetchall() == [("old",)]
    assert connection.execute("SELECT id FROM predictions_rest").fetchall() == [("absurd",)]


@pytest.mark.services
def test_a_week_whose_rows_lie_in_the_default_partition_stays_there(
    connection: psycopg.Connection[Any],
) -> None:
    create_tables(connection, now=NOW)
    later = NOW + timedelta(days=21)
    predict(connection, "early", later)  # before anyone made its week
    ensure_partitions(connection, [later], now=later)
    predict(connection, "next", later)
    assert connection.execute("SELECT id FROM predictions ORDER BY id").fetchall() == [("early",), ("next",)]


@pytest.mark.services
def test_a_key_is_kept_as_a_digest_of_32_bytes(connection: psycopg.Connection[Any]) -> None:
    create_tables(connection, now=NOW)
    sql = (
        "INSERT INTO api_keys (id, hash, tenant, name, scopes, created_at)"
        " VALUES ('k', %s, 't', 'n', '{}', %s)"
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(sql, (b"secret", NOW))
    connection.execute(sql, (b"x" * 32, NOW))
