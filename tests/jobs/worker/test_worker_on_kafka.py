"""The worker as a process on real Kafka: one result per id whatever happens to messages and processes."""

import random
import signal
from collections import Counter
from typing import Any

import pytest

from core.settings import settings
from jobs.worker.main import BACKLOG
from schemas import broker
from schemas.dead_letters import DeadLetter
from schemas.headers import header
from stack.local import Stack
from tests.jobs.worker.on_kafka import Bench, until
from tests.jobs.worker.payments import BREAKS, GIVES_NAN, expected, payment

pytestmark = pytest.mark.services


@pytest.fixture
def bench(stack: Stack) -> Bench:
    del stack
    return Bench()


def some(count: int, seed: int = 3) -> list[Any]:
    chance = random.Random(seed)
    amounts = (chance.randrange(10, 9_900) for _ in range(count))
    return [
        payment(number, amount if amount not in (BREAKS, GIVES_NAN) else 500)
        for number, amount in enumerate(amounts)
    ]


def check(bench: Bench, payments: list[Any]) -> None:
    """Every payment has exactly one result, on the partition of its key, with the decision of the rule."""
    found = bench.decisions()
    counts = Counter(decision.id for _, decision in found)
    wanted = {one.id for one in payments}
    assert set(counts) == wanted, f"missing {len(wanted - set(counts))}, unknown {len(set(counts) - wanted)}"
    assert [i for i, n in counts.items() if n > 1] == []
    by_id = {one.id: one for one in payments}
    sent = bench.messages(bench.plan.enriched)
    decoded = bench.codec.decode_batch([m.value() for m in sent])
    inputs = {
        id: sent[at].partition()
        for id, at in zip(decoded.batch.column("id").to_pylist(), decoded.kept, strict=True)
    }
    for partition, decision in found:
        one = by_id[decision.id]
        assert (decision.decision, decision.status) == expected(one.amount_cents)[1:]
        assert partition == inputs[one.id]
        assert decision.enriched_at is not None
        assert decision.enriched_at <= decision.decided_at


def test_one_result_per_id_with_repeats_among_the_inputs(bench: Bench) -> None:
    payments = some(300)
    repeated = payments + random.Random(1).sample(payments, 120)
    with bench.worker() as worker:
        bench.send(repeated)
        bench.send(payments[:50])
        keyless = [payment(number, 500) for number in range(5000, 5040)]
        for number, one in enumerate(keyless):
            value = bench.codec.encode(one)
            bench.producer.produce(bench.plan.enriched.name, value=value, partition=number % 4)
        assert bench.producer.flush(20) == 0
        until(lambda: bench.lag() == 0, "all inputs are committed")
        assert worker.ask("/health")[0] == 200
        assert "millstream_worker_repeats_total" in worker.ask("/metrics")[1]
    check(bench, payments + keyless)


def test_messages_that_cannot_be_handled_are_dead_lettered_once_and_the_rest_goes_on(bench: Bench) -> None:
    payments = some(100)
    good = bench.codec.encode(payments[0])
    poison: dict[str, bytes | None] = {
        "not_avro": b"hello",
        "unknown_schema": b"\x00\x7f\xff\xff\xff" + good[5:],
        "truncated": good[:-4],
        "trailing_bytes": good + b"\x01",
    }
    bench.send(payments[:50])
    for value in poison.values():
        bench.send_bytes("acme|card-1", value, headers=[("ce_id", b"x-1")])
    bench.send_bytes("acme|card-1", None)
    bad = [payment(900, BREAKS), payment(901, GIVES_NAN)]
    bench.send([*bad, *payments[50:]])
    with bench.worker():
        until(lambda: bench.lag() == 0, "all inputs are committed")
    check(bench, payments)

    letters = bench.messages(bench.plan.enriched.dlq)
    read = [DeadLetter.read(message) for message in letters]
    codes = Counter((letter.stage, letter.code) for letter in read)
    assert codes == {
        ("decode", "not_avro"): 2,
        ("decode", "unknown_schema"): 1,
        ("decode", "truncated"): 1,
        ("decode", "trailing_bytes"): 1,
        ("model", "model_failed"): 2,
    }
    sources = {(m.partition(), m.offset()): m for m in bench.messages(bench.plan.enriched)}
    for message, letter in zip(letters, read, strict=True):
        assert letter.topic == bench.plan.enriched.name
        source = sources[(letter.partition, letter.offset)]
        assert (source.key(), source.value()) == (letter.key, letter.value)
        assert letter.reason
        assert letter.job == f"{bench.plan.pipeline}-worker"
        assert header(message.headers(), "dlq_at")
    assert {header(m.headers(), "ce_id") for m in letters} == {"x-1", None}


def test_killed_in_mid_stream_nothing_is_lost_or_doubled(bench: Bench) -> None:
    payments = some(600)
    bench.send([*payments, payment(2000, BREAKS)])
    for done in (60, 250, 400):
        with bench.worker(pause_ms=20) as worker:
            until(lambda done=done: bench.count(bench.plan.results) >= done, f"{done} results")
            worker.kill()
    with bench.worker():
        until(lambda: bench.lag() == 0, "all inputs are committed")
    check(bench, payments)
    assert bench.count(bench.plan.enriched.dlq) == 1


def test_inputs_that_flink_sends_again_after_a_restart_of_both_give_no_second_result(bench: Bench) -> None:
    payments = some(200)
    with bench.worker() as worker:
        bench.send(payments)
        until(lambda: bench.lag() == 0, "all inputs are committed")
        worker.kill()
    bench.send(payments[100:])
    with bench.worker():
        until(lambda: bench.lag() == 0, "all inputs are committed")
    check(bench, payments)


def test_a_graceful_stop_commits_what_was_done_and_leaves_the_group(bench: Bench) -> None:
    payments = some(3000)
    bench.send(payments)
    with bench.worker(pause_ms=200) as worker:
        until(lambda: bench.count(bench.plan.results) >= 100, "100 results")
        assert worker.stop() == 0
    made = bench.count(bench.plan.results)
    assert 100 <= made < 3000
    assert bench.lag() == 3000 - made  # exactly what was answered is committed
    admin = broker.admin(settings())
    (group,) = admin.describe_consumer_groups([f"{bench.plan.pipeline}-worker"]).values()
    assert group.result(20).members == []
    with bench.worker():
        until(lambda: bench.lag() == 0, "all inputs are committed")
    check(bench, payments)


def test_workers_come_and_go_and_every_input_has_one_result(bench: Bench) -> None:
    payments = some(1200)
    with bench.worker(pause_ms=5) as first:
        first.wait_ready()
        bench.send(payments[:600])
        with bench.worker(pause_ms=5) as second:
            second.wait_ready()
            bench.send(payments[600:900])
            assert second.stop() == 0
        with bench.worker(pause_ms=5) as third:
            third.wait_ready()
            bench.send(payments[900:])
            until(lambda: bench.count(bench.plan.results) >= 1000, "1000 results")
            first.kill()
            until(lambda: bench.lag() == 0, "all inputs are committed")
    check(bench, payments)


def test_a_worker_that_slept_through_its_session_harms_nobody(bench: Bench) -> None:
    """A stopped process loses its partitions; awake again it must not answer what others answered."""
    payments = some(400)
    with bench.worker(pause_ms=20) as sleeper:
        sleeper.wait_ready()
        bench.send(payments)
        until(lambda: bench.count(bench.plan.results) >= 50, "50 results")
        sleeper.signal(signal.SIGSTOP)
        with bench.worker() as other:
            until(lambda: bench.lag() == 0, "the other worker took over")
            sleeper.signal(signal.SIGCONT)
            other.wait_ready()
            until(lambda: sleeper.ask("/health")[0] == 200, "the sleeper is back")
            assert sleeper.stop() == 0
    found = [decision.id for _, decision in bench.decisions()]
    assert set(found) == {one.id for one in payments}
    # what the sleeper had handed to its client already may come twice; readers keep the first
    assert len(found) - len(set(found)) <= bench.batch * BACKLOG
