"""The review queue on a real PostgreSQL; the publisher is a list."""

import base64
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from core.clock import ManualClock
from core.errors import Conflict, Rejected, Unavailable, UnknownName
from jobs.writer.postgres_store import PostgresStatusStore
from pipelines.reviews import decide, find_review, list_reviews
from schemas.catalog.decisions import Verdict
from tests.jobs.writer.samples import START, TENANT, decision

pytestmark = pytest.mark.services


class Published:
    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.away = False

    def publish(self, verdict: Verdict) -> None:
        if self.away:
            raise Unavailable("away")
        self.verdicts.append(verdict)


@pytest.fixture
def store(database: str) -> Iterator[PostgresStatusStore]:
    made = PostgresStatusStore(database)
    for number in range(7):
        at = START + timedelta(seconds=number // 2)  # two share each time
        made.decide([decision(f"r{number}", status="in_review")], at)
    made.decide([decision("other", status="in_review", tenant="else"), decision("fine")], START)
    yield made
    made.close()


@pytest.fixture
def connection(database: str, store: PostgresStatusStore) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def verdict_on(connection: Any, published: Published, id: str = "r0", **changes: Any) -> Verdict:
    given = {"tenant": TENANT, "verdict": "fraud", "reviewer": "ann"} | changes
    return decide(connection, published, ManualClock(), id=id, **given)


def test_pages_hold_every_review_once_oldest_first(connection: Any) -> None:
    ids: list[str] = []
    after = None
    for _ in range(10):
        page = list_reviews(connection, tenant=TENANT, limit=3, after=after)
        ids += [review.id for review in page.reviews]
        after = page.after
        if after is None:
            break
    assert ids == [f"r{number}" for number in range(7)]
    first = list_reviews(connection, tenant=TENANT, limit=1).reviews[0]
    assert (first.score, first.state, first.reasons) == (
        50.0, "open", [{"input": "amount_cents", "contribution": 1.5}],
    )  # fmt: skip


def test_a_tenant_sees_its_own_only(connection: Any) -> None:
    assert [review.id for review in list_reviews(connection, tenant="else").reviews] == ["other"]
    with pytest.raises(UnknownName):
        find_review(connection, tenant=TENANT, id="other")
    with pytest.raises(UnknownName):
        verdict_on(connection, Published(), "other")


def test_a_verdict_is_published_and_the_queue_follows_the_writer(
    connection: Any, store: PostgresStatusStore
) -> None:
    published = Published()
    given = verdict_on(connection, published, note="seen before")
    assert published.verdicts == [given]
    assert (given.entity, given.pipeline, given.occurred_at) == ("card-r0", "fraud", START)
    assert find_review(connection, tenant=TENANT, id="r0").state == "open"
    store.review(published.verdicts, START + timedelta(minutes=1))
    done = find_review(connection, tenant=TENANT, id="r0")
    assert (done.state, done.verdict, done.reviewer, done.note) == ("decided", "fraud", "ann", "seen before")
    assert [review.id for review in list_reviews(connection, tenant=TENANT, state="decided").reviews] == [
        "r0"
    ]


def test_the_same_again_publishes_nothing_and_another_verdict_is_a_conflict(
    connection: Any, store: PostgresStatusStore
) -> None:
    published = Published()
    store.review([verdict_on(connection, published)], START)
    assert verdict_on(connection, published).verdict == "fraud"
    assert len(published.verdicts) == 1
    with pytest.raises(Conflict) as refused:
        verdict_on(connection, published, verdict="legitimate")
    assert refused.value.code == "already_reviewed"
    assert len(published.verdicts) == 1


def test_every_fault_of_a_verdict_is_named(connection: Any) -> None:
    published = Published()
    with pytest.raises(Rejected) as refused:
        verdict_on(connection, published, verdict="perhaps", reviewer=" ", note="x" * 2001)
    assert set(refused.value.fields) == {"/verdict", "/reviewer", "/note"}
    with pytest.raises(Rejected):
        list_reviews(connection, tenant=TENANT, limit=0)
    endless = base64.urlsafe_b64encode(b"[" * 6_000).decode()
    unspeakable = base64.urlsafe_b64encode(b'["2026-01-01", "\\ud800"]').decode()
    for cursor in ("nonsense", "W10", "WyJhIiwgMV0", endless, unspeakable):
        with pytest.raises(Rejected):
            list_reviews(connection, tenant=TENANT, after=cursor)
    assert published.verdicts == []


def test_a_verdict_that_is_not_acknowledged_leaves_the_review_open(connection: Any) -> None:
    published = Published()
    published.away = True
    with pytest.raises(Unavailable):
        verdict_on(connection, published)
    assert find_review(connection, tenant=TENANT, id="r0").state == "open"
