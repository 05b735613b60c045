"""One suite for the status store, passed by the fake in memory and by PostgreSQL."""

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from core.errors import Unavailable
from jobs.writer.errors import BadRecord
from jobs.writer.postgres_store import PostgresStatusStore
from jobs.writer.status_store import Arrival
from tests.jobs.writer.memory_store import MemoryStatusStore
from tests.jobs.writer.samples import START, TENANT, decision, verdict
from tests.lanes import on_the_stack


class ReadablePostgres(PostgresStatusStore):
    """The real store, with the reads of the suite."""

    def status_of(self, tenant: str, id: str) -> tuple[str, int] | None:
        found: tuple[str, int] | None = self.one(
            "SELECT status, rank FROM transactions WHERE tenant = %s AND id = %s", tenant, id
        )
        return found

    def history_of(self, tenant: str, id: str) -> list[float | None]:
        with self._open() as connection:
            rows = connection.execute(
                "SELECT score FROM predictions WHERE tenant = %s AND id = %s", (tenant, id)
            ).fetchall()
        return [row[0] for row in rows]

    def review_state(self, tenant: str, id: str) -> str | None:
        row = self.one("SELECT state FROM reviews WHERE tenant = %s AND id = %s", tenant, id)
        return None if row is None else row[0]

    def one(self, sql: str, *parameters: Any) -> Any:
        with self._open() as connection:
            found: Any = connection.execute(sql, parameters).fetchone()
        return found


@pytest.fixture(params=["memory", pytest.param("postgres", marks=on_the_stack)])
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryStatusStore()
        return
    real = ReadablePostgres(request.getfixturevalue("database"))
    yield real
    real.close()


def later(seconds: float) -> Any:
    return START + timedelta(seconds=seconds)


def arrival(id: str, tenant: str = TENANT) -> Arrival:
    return Arrival(tenant, id, f"card-{id}", START)


def test_a_status_goes_from_provisional_to_decided_to_reviewed(store: Any) -> None:
    assert store.accept("fraud", [arrival("1")], START) == 1
    assert store.status_of(TENANT, "1") == ("provisional", 0)
    store.decide([decision("1", status="in_review")], later(1))
    assert store.status_of(TENANT, "1") == ("in_review", 1)
    assert store.review_state(TENANT, "1") == "open"
    store.review([verdict("1", "fraud")], later(2))
    assert store.status_of(TENANT, "1") == ("blocked", 2)
    assert store.review_state(TENANT, "1") == "decided"


def test_the_first_decision_stays_and_a_repeat_is_answered_with_it(store: Any) -> None:
    first = decision("1", status="blocked")
    other = decision("1", status="confirmed", decided_at=later(9))
    assert [one.first for one in store.decide([first], later(1))] == [True]
    [again] = store.decide([other], later(10))
    assert (again.decision, again.stored_at, again.first) == (first, later(1), False)
    assert store.status_of(TENANT, "1") == ("blocked", 1)
    assert store.history_of(TENANT, "1") == [first.score]


def test_within_one_call_the_first_of_an_id_counts(store: Any) -> None:
    stored = store.decide(
        [decision("b"), decision("a", status="blocked"), decision("b", status="blocked")], later(1)
    )
    assert [(one.decision.id, one.decision.status) for one in stored] == [
        ("b", "confirmed"),
        ("a", "blocked"),
    ]


def test_the_first_verdict_stays(store: Any) -> None:
    store.decide([decision("1", status="in_review")], later(1))
    store.review([verdict("1", "legitimate", reviewer="ann")], later(2))
    [again] = store.review([verdict("1", "fraud", reviewer="bob")], later(3))
    assert (again.verdict.verdict, again.verdict.reviewer, again.first) == ("legitimate", "ann", False)
    assert again.stored_at == later(2)
    assert store.status_of(TENANT, "1") == ("confirmed", 2)


def test_a_verdict_before_the_decision_is_not_undone_by_it(store: Any) -> None:
    store.review([verdict("1", "fraud")], later(1))
    [stored] = store.decide([decision("1", status="in_review")], later(2))
    assert stored.first
    assert store.status_of(TENANT, "1") == ("blocked", 2)
    assert store.history_of(TENANT, "1") == [50.0]
    assert store.review_state(TENANT, "1") == "decided"


def test_an_event_after_its_decision_changes_nothing(store: Any) -> None:
    store.decide([decision("1")], later(1))
    assert store.accept("fraud", [arrival("1")], later(2)) == 0
    assert store.status_of(TENANT, "1") == ("confirmed", 1)


def test_equal_ids_of_two_tenants_are_two_transactions(store: Any) -> None:
    store.decide([decision("1", status="blocked"), decision("1", tenant="other")], later(1))
    assert store.status_of(TENANT, "1") == ("blocked", 1)
    assert store.status_of("other", "1") == ("confirmed", 1)


def test_any_order_and_any_repeats_end_in_the_same_status(store: Any) -> None:
    random.seed(7)
    for number, order in enumerate(itertools.permutations("adv")):
        id = f"p{number}"
        steps: dict[str, Callable[[], Any]] = {
            "a": lambda id=id: store.accept("fraud", [arrival(id)], later(1)),  # type: ignore[misc]
            "d": lambda id=id: store.decide([decision(id, status="in_review")], later(2)),  # type: ignore[misc]
            "v": lambda id=id: store.review([verdict(id, "legitimate")], later(3)),  # type: ignore[misc]
        }
        for step in [*order, *random.choices("adv", k=4)]:
            steps[step]()
        assert store.status_of(TENANT, id) == ("confirmed", 2), order
        assert store.history_of(TENANT, id) == [50.0]
        assert store.review_state(TENANT, id) == "decided"


def test_a_decision_comes_back_whole(store: Any) -> None:
    whole = decision("1", status="in_review", feature_time=START, traceparent="00-1-2-01", late=True)
    store.decide([whole], later(1))
    [again] = store.decide([decision("1")], later(2))
    assert again.decision == whole


def test_a_text_that_no_database_holds_is_refused_and_nothing_of_the_batch_is_stored(store: Any) -> None:
    with pytest.raises(BadRecord):
        store.decide([decision("good"), decision("bad\x00")], later(1))
    with pytest.raises(BadRecord):
        store.accept("fraud", [arrival("good"), arrival("bad\x00")], later(1))
    assert store.status_of(TENANT, "good") is None


def test_an_unknown_verdict_is_refused(store: Any) -> None:
    with pytest.raises(BadRecord):
        store.review([verdict("1", "perhaps")], later(1))
    assert store.status_of(TENANT, "1") is None


def test_nothing_given_nothing_done(store: Any) -> None:
    assert store.accept("fraud", [], START) == 0
    assert store.decide([], START) == []
    assert store.review([], START) == []


@pytest.mark.services
def test_racing_writers_agree_on_the_first_decision(database: str) -> None:
    ids = [f"r{number}" for number in range(60)]
    answers: list[dict[str, tuple[float, bool]]] = [{} for _ in range(4)]
    barrier = threading.Barrier(4)

    def race(number: int) -> None:
        store = ReadablePostgres(database)
        mine = random.Random(number).sample(ids, len(ids))
        barrier.wait(timeout=30)
        for start in range(0, len(mine), 7):
            part = [decision(id, score=float(number)) for id in mine[start : start + 7]]
            store.accept("fraud", [arrival(id) for id in mine[start : start + 7]], later(number))
            for one in store.decide(part, later(number)):
                answers[number][one.decision.id] = (one.decision.score or 0.0, one.first)
        store.close()

    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for id in ids:
        told = {answer[id][0] for answer in answers}
        assert len(told) == 1, f"{id} was told as {told}"
        assert sum(answer[id][1] for answer in answers) == 1
    reader = ReadablePostgres(database)
    assert [len(reader.history_of(TENANT, id)) for id in ids] == [1] * len(ids)
    reader.close()


@pytest.mark.services
def test_a_lost_connection_is_unavailable_and_the_next_call_connects_again(database: str) -> None:
    store = ReadablePostgres(database, application="writer-to-be-cut")
    store.decide([decision("1")], later(1))
    with psycopg.connect(database, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            ("writer-to-be-cut",),
        )
    with pytest.raises(Unavailable):
        store.decide([decision("2")], later(2))
    [stored] = store.decide([decision("2")], later(3))
    assert stored.first
    store.close()


@pytest.mark.services
def test_a_wiped_database_is_made_ready_again(database: str) -> None:
    store = ReadablePostgres(database)
    store.decide([decision("1")], later(1))
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("DROP TABLE transactions, predictions, reviews, api_keys")
    with pytest.raises(Unavailable):
        store.decide([decision("1")], later(2))
    [stored] = store.decide([decision("1")], later(3))
    assert stored.first
    store.close()
