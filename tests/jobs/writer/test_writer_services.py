"""The writer on the real stack, with the messages that were sent as the record of what must be there."""

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from core.errors import Unavailable
from core.settings import Settings, settings
from jobs.writer.main import Writer
from jobs.writer.status_store import Arrival
from pipelines.offline import read_offline
from schemas.catalog.decisions import Verdict
from schemas.headers import header
from tests.jobs.writer.deployed import Deployed, Running, enriched, results, swipes, until
from tests.jobs.writer.memory_store import MemoryStatusStore
from tests.jobs.writer.samples import START, TENANT

pytestmark = pytest.mark.services


@pytest.fixture
def deployed(database: str, tmp_path: Path) -> Deployed:
    given = settings()
    changed = {
        "home": tmp_path,
        "postgres": given.postgres.model_copy(update={"url": database}),
        "writer": given.writer.model_copy(update={"delta_interval_s": 0.5}),
    }
    return Deployed(given.model_copy(update=changed))


def rows(given: Settings, sql: str, *parameters: object) -> list[tuple[object, ...]]:
    with psycopg.connect(given.postgres.address, autocommit=True) as connection:
        return connection.execute(sql.encode(), parameters).fetchall()


def _check(writer: Writer, name: str) -> str:
    return str(writer.probe.health()[1]["checks"].get(name, ""))


def test_every_record_reaches_every_store_once(deployed: Deployed) -> None:
    plan, ids = deployed.plan, range(200)
    with Running(deployed) as writer:
        until(lambda: writer.probe.readiness()[0], "ready")
        deployed.send(plan.source, swipes(ids))
        deployed.send(plan.enriched, enriched(ids))
        deployed.send(plan.results, results(plan.pipeline, ids))
        deployed.send(plan.results, results(plan.pipeline, ids, score=77.0))  # a second result for each
        until(lambda: deployed.committed("status", plan.results) == 400, "results committed")
        until(lambda: deployed.committed("arrivals", plan.source) == 200, "events committed")
        until(lambda: deployed.committed("online", plan.enriched) == 200, "enriched committed")
        verdicts = [
            Verdict(
                tenant=TENANT, id=f"s{id}", entity=f"card-{id % 17}", occurred_at=START,
                pipeline=plan.pipeline, verdict="fraud", reviewer="ann", decided_at=START,
            )
            for id in (1, 6)
        ]  # fmt: skip
        deployed.send(plan.labels, verdicts)
        until(lambda: deployed.committed("status", plan.labels) == 2, "labels committed")
    told = deployed.records(plan.status)
    decided = [one for one in told if one.rank == 1]
    assert Counter(one.id for one in decided) == Counter(f"s{id}" for id in ids)
    first = {one.id: one.score for one in results(plan.pipeline, ids)}
    assert all(one.result.score == first[one.id] for one in decided), "the second result won"
    assert {(one.id, one.status) for one in told if one.rank == 2} == {("s1", "blocked"), ("s6", "blocked")}
    assert Counter(one.id for one in deployed.records(plan.alerts)) == Counter(
        f"transaction_blocked:s{id}" for id in ids if id % 5 == 0
    )
    where = {m.key(): m.partition() for m in deployed.messages(plan.results)}
    assert all(where[m.key()] == m.partition() for m in deployed.messages(plan.status))
    given = deployed.settings
    assert rows(given, "SELECT status, rank, count(*) FROM transactions GROUP BY 1, 2 ORDER BY 1, 2") == [
        ("blocked", 1, 40), ("blocked", 2, 2), ("confirmed", 1, 120), ("in_review", 1, 38),
    ]  # fmt: skip
    assert rows(given, "SELECT count(*), count(DISTINCT id) FROM predictions") == [(200, 200)]
    assert rows(given, "SELECT state, count(*) FROM reviews GROUP BY 1 ORDER BY 1") == [
        ("decided", 2), ("open", 38),
    ]  # fmt: skip
    offline = read_offline(given.root, plan.enriched.name)
    assert Counter(offline["id"].to_pylist()) == Counter(f"s{id}" for id in ids)


def test_poison_is_dead_lettered_once_and_the_partition_moves_on(deployed: Deployed) -> None:
    plan = deployed.plan
    good = results(plan.pipeline, range(10))
    unstorable = replace(results(plan.pipeline, [70])[0], model="\x00")
    headers = [("ce_id", b"x"), ("traceparent", b"00-a-b-01")]
    with Running(deployed) as writer:
        until(lambda: writer.probe.readiness()[0], "ready")
        deployed.send(plan.source, swipes(range(5)))
        for poison in (b"not avro", b"\x00\x7f\xff\xff\xffbody", b"\x00", None):
            deployed.send_raw(plan.source, poison, key="p", headers=headers)
        deployed.send(plan.source, swipes(range(5, 10)))
        deployed.send(plan.results, good[:5])
        deployed.send_raw(plan.results, b"neither", key="p", headers=headers)
        deployed.send(plan.results, [unstorable, *good[5:]])
        deployed.send_raw(plan.enriched, b"the worker's", key="p")
        deployed.send(plan.enriched, enriched(range(3)))
        until(lambda: deployed.committed("arrivals", plan.source) == 14, "events committed")
        until(lambda: deployed.committed("status", plan.results) == 12, "results committed")
        until(lambda: deployed.committed("online", plan.enriched) == 4, "enriched committed")
    letters = deployed.messages(plan.source.dlq)
    told = Counter((header(m.headers(), "dlq_code"), header(m.headers(), "dlq_stage")) for m in letters)
    assert told == Counter({("not_avro", "decode"): 3, ("unknown_schema", "decode"): 1})
    sent = {(m.partition(), m.offset()): m for m in deployed.messages(plan.source)}
    for letter in letters:
        place = header(letter.headers(), "dlq_partition"), header(letter.headers(), "dlq_offset")
        original = sent[int(place[0] or -1), int(place[1] or -1)]
        assert (letter.key(), letter.value()) == (original.key(), original.value())
        assert header(letter.headers(), "traceparent") == "00-a-b-01"
        assert header(letter.headers(), "dlq_topic") == plan.source.name
    refused = deployed.messages(plan.results.dlq)
    assert Counter(header(m.headers(), "dlq_stage") for m in refused) == Counter(decode=1, store=1)
    assert deployed.messages(plan.enriched.dlq) == []
    given = deployed.settings
    assert rows(given, "SELECT count(*) FROM transactions WHERE rank = 1") == [(10,)]
    assert {one.id for one in deployed.records(plan.status)} == {f"s{id}" for id in range(10)}


def test_a_database_that_is_away_loses_nothing_and_is_named(deployed: Deployed) -> None:
    plan, given = deployed.plan, deployed.settings
    name = given.postgres.address.rsplit("dbname=", 1)[1].split()[0].strip("'")
    with Running(deployed) as writer:
        until(lambda: writer.probe.readiness()[0], "ready")
        deployed.send(plan.results, results(plan.pipeline, range(5)))
        until(lambda: deployed.committed("status", plan.results) == 5, "first results committed")
        with psycopg.connect(settings().postgres.address, autocommit=True) as outside:
            outside.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false".encode())
            outside.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
            deployed.send(plan.results, results(plan.pipeline, range(5, 10)))
            until(lambda: _check(writer, "database") != "ok", "health names the database")
            until(lambda: "PostgreSQL" in _check(writer, "sink status"), "health names the sink")
            assert _check(writer, "redis") == _check(writer, "kafka") == "ok"
            assert deployed.committed("status", plan.results) == 5
            assert {one.id for one in deployed.records(plan.status)} == {f"s{id}" for id in range(5)}
            outside.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true".encode())
        until(lambda: deployed.committed("status", plan.results) == 10, "goes on by itself")
        until(lambda: writer.probe.health()[0], "healthy again")
    assert Counter(one.id for one in deployed.records(plan.status)) == Counter(f"s{id}" for id in range(10))


CHILD = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {repository!r})
    from core.settings import settings
    from jobs.writer.main import run
    from tests.jobs.writer.deployed import plan_of
    run(plan_of(sys.argv[1]), settings())
"""


def _stored(given: Settings) -> int:
    if rows(given, "SELECT to_regclass('predictions')") == [(None,)]:
        return 0
    return int(str(rows(given, "SELECT count(*) FROM predictions")[0][0]))


def _start(deployed: Deployed) -> subprocess.Popen[bytes]:
    script = textwrap.dedent(CHILD.format(repository=str(Path(__file__).parents[3])))
    environment = os.environ | {
        "MILLSTREAM_HOME": str(deployed.settings.root),
        "MILLSTREAM_POSTGRES__URL": deployed.settings.postgres.address,
        "MILLSTREAM_WRITER__DELTA_INTERVAL_S": "0.3",
    }
    return subprocess.Popen([sys.executable, "-c", script, deployed.plan.pipeline], env=environment)


def test_kill_9_in_mid_stream_loses_nothing_and_tells_every_repeat_alike(deployed: Deployed) -> None:
    plan, given, total = deployed.plan, deployed.settings, 3000
    made = results(plan.pipeline, range(total))
    child = _start(deployed)
    try:
        for number, start in enumerate(range(0, total, 500)):
            ids = range(start, start + 500)
            deployed.send(plan.source, swipes(ids))
            deployed.send(plan.enriched, enriched(ids))
            deployed.send(plan.results, made[start : start + 500])
            if number in (1, 3):
                until(lambda: _stored(given) > start, "the writer is in the middle of these")  # noqa: B023
                os.kill(child.pid, signal.SIGKILL)
                child.wait(timeout=10)
                deployed.send(plan.results, results(plan.pipeline, ids, score=1.5))  # scored again, late
                child = _start(deployed)
        until(lambda: deployed.committed("status", plan.results) >= total + 1000, "results", 90)
        until(lambda: deployed.committed("online", plan.enriched) == total, "online", 60)
        until(lambda: deployed.committed("arrivals", plan.source) == total, "events", 60)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == 0
    finally:
        if child.poll() is None:
            child.kill()
            child.wait(timeout=10)
    first = {one.id: one for one in made}
    told = deployed.records(plan.status)
    assert {one.id for one in told} == set(first)
    assert all(one.result.score == first[one.id].score for one in told), "a later result was told"
    assert rows(given, "SELECT count(*), count(DISTINCT id) FROM predictions") == [(total, total)]
    assert {one.subject for one in deployed.records(plan.alerts)} == {
        one.entity for one in made if one.status == "blocked"
    }
    offline = read_offline(given.root, plan.enriched.name)
    assert Counter(offline["id"].to_pylist()) == Counter(list(first))


class Stuck(MemoryStatusStore):
    """A store that never takes an event."""

    def accept(self, pipeline: str, arrivals: Sequence[Arrival], at: datetime) -> int:
        raise Unavailable("stuck")


def test_decisions_do_not_wait_for_events_or_for_the_other_stores(deployed: Deployed) -> None:
    plan = deployed.plan
    running = Running(deployed)
    sinks: dict[str, Any] = {runner.sink.name: runner.sink for runner in running.writer.runners}
    sinks["arrivals"]._store = Stuck()
    sinks["offline"]._path = Path("/proc/nowhere")
    with running as writer:
        deployed.send(plan.source, swipes(range(50)))
        deployed.send(plan.enriched, enriched(range(50)))
        until(lambda: "stuck" in _check(writer, "sink arrivals"), "events are stuck")
        deployed.send(plan.results, results(plan.pipeline, range(50)))
        until(lambda: deployed.committed("status", plan.results) == 50, "results committed")
        until(lambda: deployed.committed("online", plan.enriched) == 50, "online committed")
        assert not writer.probe.readiness()[0]
        assert deployed.committed("arrivals", plan.source) == 0
    assert {one.id for one in deployed.records(plan.status)} == {f"s{id}" for id in range(50)}
