"""One request is one work, whoever asks how often; every place ends, and ends once what follows is said."""

import asyncio
import random
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest

from core.clock import SystemClock
from core.errors import Rejected, Unavailable
from jobs.worker.answering.progress import Place, Progress
from jobs.worker.answering.works import Asked, Rules, Works
from operators.asking import Answer, Emit, Question
from operators.error_rates import ONE_MINUTE, ErrorRates
from pipelines.asking.addresses import Address
from pipelines.asking.outcomes import End, InMemoryOutcomes
from schemas.catalog.asking import Ask

CLOCK = SystemClock()
TTL = timedelta(minutes=1)


class Said:
    """Replies as they were said, in place of Kafka; acknowledged at once."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, End]] = []
        self.frames: list[tuple[str, int, list[bytes]]] = []

    def pieces(
        self, to: Iterable[Address], tenant: str, id: str, attempt: str, number: int, pieces: list[bytes]
    ) -> None:
        self.frames += [(address.correlation_id, number, list(pieces)) for address in to]

    async def end(self, to: Address, tenant: str, id: str, end: End, acknowledged: Any) -> None:
        self.ends.append((to.correlation_id, end))
        acknowledged()


class Slow:
    """Answers after as many milliseconds as the body says; notes what it does."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.working = self.most = 0

    async def answer(self, question: Question, emit: Emit) -> Answer:
        self.notes.append(("began", question.id))
        self.working += 1
        self.most = max(self.most, self.working)
        try:
            if question.body == b"refuse":
                raise Rejected("refused", fields={})
            if question.body == b"away":
                raise Unavailable("away")
            if question.body == b"bug":
                raise RuntimeError("a secret")
            if question.streamed:
                for number in range(5):
                    await emit(b"%d" % number)
            await asyncio.sleep(int(question.body) / 1000)
        except asyncio.CancelledError:
            self.notes.append(("cancelled", question.id))
            raise
        finally:
            self.working -= 1
        self.notes.append(("finished", question.id))
        return Answer(200, b"%d" % len(self.notes))


class Bench:
    def __init__(
        self, *, ordered: bool = False, looks_first: bool = True, store: InMemoryOutcomes | None = None
    ) -> None:
        self.said, self.slow = Said(), Slow()
        self.store = store or InMemoryOutcomes(ttl=TTL)
        self.done: list[Place] = []
        self.rates = ErrorRates("p", CLOCK)
        self.works = Works(
            self.slow,
            self.said,  # type: ignore[arg-type]
            store=self.store,
            recent=InMemoryOutcomes(ttl=TTL),
            rules=Rules("p", ordered=ordered, looks_first=looks_first),
            clock=CLOCK,
            rates=self.rates,
            done=self.done.append,
        )
        self._progress = Progress()
        self._offset = 0

    def asked(self, id: str, body: bytes = b"50", *, who: str = "g-1", s: float = 5, **more: Any) -> Asked:
        now = CLOCK.now()
        given = {"entity": "e", "pipeline": "p", "deadline_at": now + timedelta(seconds=s)} | more
        self._offset += 1
        ask = Ask(tenant="a", id=id, asked_at=now, body=body, **given)
        return Asked(ask, Address(who, "replies", 0), self._progress.begin(0, self._offset), 0)

    def cancel(self, id: str, *, who: str = "g-1") -> Asked:
        return self.asked(id, b"", who=who, kind="cancel")

    async def settle(self) -> None:
        await self.works.idle(5)
        await asyncio.sleep(0)

    def states(self) -> dict[str, str]:
        return {who: end.state for who, end in self.said.ends}


async def test_repeats_join_the_work_and_all_are_answered_alike() -> None:
    bench = Bench()
    bench.works.take([bench.asked("1", who="g-1"), bench.asked("1", who="h-1")])
    await asyncio.sleep(0.02)
    bench.works.take([bench.asked("1", who="h-2")])
    await bench.settle()
    assert bench.states() == {"g-1": "answered", "h-1": "answered", "h-2": "answered"}
    assert len({end.body for _, end in bench.said.ends}) == 1
    assert bench.slow.notes == [("began", "1"), ("finished", "1")]
    assert len(bench.done) == 3


async def test_a_repeat_after_the_end_is_answered_from_the_store_by_another_worker() -> None:
    first = Bench()
    first.works.take([first.asked("1", streamed=True)])
    await first.settle()
    second = Bench(store=first.store)
    second.works.take([second.asked("1", streamed=True, who="h-9")])
    await second.settle()
    assert second.slow.notes == []
    assert second.said.ends[0][1] == first.said.ends[0][1]
    assert [piece for _, _, pieces in second.said.frames for piece in pieces] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
    ]


async def test_what_is_worked_at_once_has_one_end_all_the_same() -> None:
    first = Bench(looks_first=False)
    first.works.take([first.asked("1")])
    await first.settle()
    second = Bench(looks_first=False, store=first.store)
    second.works.take([second.asked("1", who="h-9"), second.asked("2", who="h-10")])
    await second.settle()
    assert second.slow.notes.count(("finished", "1")) == 1
    ends = dict(second.said.ends)
    assert ends["h-9"] == first.said.ends[0][1]
    assert ends["h-10"].body != ends["h-9"].body
    second.works.take([second.asked("1", b"51", who="h-11")])
    await second.settle()
    third = Bench(looks_first=False, store=first.store)
    third.works.take([third.asked("1", b"51", who="h-12")])
    await third.settle()
    for end in (dict(second.said.ends)["h-11"], dict(third.said.ends)["h-12"]):
        assert end.failure is not None
        assert end.failure.code == "conflict"


async def test_another_body_is_a_conflict_during_and_after() -> None:
    bench = Bench()
    bench.works.take([bench.asked("1"), bench.asked("1", b"51", who="x-1")])
    await bench.settle()
    bench.works.take([bench.asked("1", b"52", who="x-2")])
    await bench.settle()
    assert bench.states() == {"g-1": "answered", "x-1": "failed", "x-2": "failed"}
    for who, end in bench.said.ends:
        if who.startswith("x"):
            assert end.failure is not None
            assert end.failure.code == "conflict"
    assert bench.slow.notes.count(("began", "1")) == 1


async def test_a_passed_deadline_drops_the_work_before_and_in_the_middle() -> None:
    bench = Bench()
    bench.works.take([bench.asked("late", s=-1, who="l-1"), bench.asked("slow", b"5000", s=0.1, who="s-1")])
    await bench.settle()
    assert bench.states() == {"l-1": "expired", "s-1": "expired"}
    assert bench.slow.notes == [("began", "slow"), ("cancelled", "slow")]
    bench.works.take([bench.asked("late", who="l-2")])  # nothing was answered: it may be asked again
    await bench.settle()
    assert bench.states()["l-2"] == "answered"


async def test_the_longest_deadline_of_those_who_wait_counts() -> None:
    bench = Bench()
    bench.works.take([bench.asked("1", b"300", s=0.1, who="short-1")])
    await asyncio.sleep(0.02)
    bench.works.take([bench.asked("1", b"300", s=5, who="long-1")])
    await bench.settle()
    assert bench.states()["long-1"] == "answered"


async def test_cancelled_when_the_last_has_left() -> None:
    bench = Bench()
    bench.works.take([bench.asked("1", b"400", who="g-1"), bench.asked("1", b"400", who="h-1")])
    await asyncio.sleep(0.02)
    bench.works.take([bench.cancel("1", who="g-1")])
    await asyncio.sleep(0.02)
    assert bench.slow.notes == [("began", "1")]
    bench.works.take([bench.cancel("1", who="h-1")])
    await bench.settle()
    assert bench.slow.notes == [("began", "1"), ("cancelled", "1")]
    assert bench.said.ends == []
    assert len(bench.done) == 4
    assert (await bench.store.read("a", "1")).end.state == "cancelled"  # type: ignore[union-attr]


async def test_cancelled_before_it_began_and_asked_again_at_once() -> None:
    bench = Bench()
    bench.works.take([bench.asked("1", who="g-1"), bench.cancel("1", who="g-1")])
    await bench.settle()
    assert bench.slow.notes == []
    bench.works.take([bench.asked("2", b"300", who="g-2")])
    await asyncio.sleep(0.02)
    bench.works.take([bench.cancel("2", who="g-2"), bench.asked("2", b"300", who="h-2")])
    await bench.settle()
    assert bench.states() == {"h-2": "answered"}
    assert len(bench.done) == 5


async def test_errors_end_the_request_and_only_what_may_pass_is_tried_again() -> None:
    bench = Bench()
    for body in (b"refuse", b"away", b"bug"):
        id = body.decode()
        bench.works.take([bench.asked(id, body)])
        await bench.settle()
        bench.works.take([bench.asked(id, body)])
        await bench.settle()
    began = [id for what, id in bench.slow.notes if what == "began"]
    assert began == ["refuse", "away", "away", "bug"]
    codes = [end.failure.code for _, end in bench.said.ends if end.failure]
    assert codes == ["invalid_record"] * 2 + ["unavailable"] * 2 + ["internal_error"] * 2
    assert "secret" not in str(bench.said.ends)


async def test_what_was_worked_is_counted_once_and_by_whose_fault_it_was() -> None:
    bench = Bench()
    wanted = {"ok": b"5", "bad": b"refuse", "away": b"away", "bug": b"bug"}
    bench.works.take([bench.asked(id, body) for id, body in wanted.items()])
    bench.works.take([bench.asked("ok", b"5", who="h-1"), bench.asked("late", b"5000", s=0.05)])
    left = bench.asked("left", b"5000")
    bench.works.take([left])
    await asyncio.sleep(0.02)
    bench.works.take([bench.cancel("left")])
    await bench.settle()
    bench.works.take([bench.asked("ok", b"5"), bench.asked("bad", b"refuse")])  # from the store
    await bench.settle()
    found = bench.rates.counted("answer", ONE_MINUTE)
    assert found.calls == 5
    assert found.failed == {"unavailable": 1, "internal_error": 1, "deadline_exceeded": 1}
    assert found.refused == {"invalid_record": 1}


async def test_order_per_entity_where_it_is_asked_for() -> None:
    bench = Bench(ordered=True)
    bench.works.take([bench.asked(f"{n}", b"%d" % ms, who=f"g-{n}") for n, ms in enumerate((60, 30, 1))])
    bench.works.take([bench.asked("other", b"1", entity="f", who="f-1")])
    await bench.settle()
    ended = [id for what, id in bench.slow.notes if what == "finished" and id != "other"]
    assert ended == ["0", "1", "2"]
    assert bench.slow.notes.index(("finished", "other")) < bench.slow.notes.index(("finished", "0"))


class Away(InMemoryOutcomes):
    """A store that is away now and then."""

    def __init__(self, seed: int) -> None:
        super().__init__(ttl=TTL)
        self._random = random.Random(seed)

    async def read(self, *given: Any, **more: Any) -> Any:
        return await self._maybe(super().read, *given, **more)

    async def end(self, *given: Any) -> Any:
        return await self._maybe(super().end, *given)

    async def add(self, *given: Any) -> Any:
        return await self._maybe(super().add, *given)

    async def begin(self, *given: Any) -> Any:
        return await self._maybe(super().begin, *given)

    async def _maybe(self, call: Any, *given: Any, **more: Any) -> Any:
        await asyncio.sleep(self._random.random() / 500)
        if self._random.random() < 0.3:
            raise Unavailable("Redis is away")
        return await call(*given, **more)


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("ordered", [False, True])
async def test_whatever_comes_every_place_ends_and_every_asker_is_told_once(seed: int, ordered: bool) -> None:
    random_ = random.Random(seed)
    bench = Bench(ordered=ordered, store=Away(seed))
    stay: set[str] = set()
    sent = 0
    for turn in range(40):
        batch = []
        for _ in range(random_.randint(0, 4)):
            sent += 1
            if stay and random_.random() < 0.25:
                who = random_.choice(sorted(stay))
                batch.append(bench.cancel(who.split("-")[0], who=who))
                continue
            name = f"{random_.randrange(12)}"
            body = random_.choice((b"1", b"5", b"20", b"refuse", b"away"))
            who = f"{name}-{turn}x{sent}"
            stay.add(who)
            batch.append(
                bench.asked(name, body, who=who, s=random_.choice((0.01, 5)), streamed=random_.random() < 0.3,
                            entity=random_.choice("ef"))
            )  # fmt: skip
        left = {one.address.correlation_id for one in batch if one.ask.kind == "cancel" and one.address}
        stay -= left
        bench.works.take(batch)
        await asyncio.sleep(random_.random() / 100)
    await bench.settle()
    assert len({id(place) for place in bench.done}) == len(bench.done) == sent
    told = [who for who, _ in bench.said.ends]
    assert len(told) == len(set(told))
    assert stay <= set(told)
    for name in {who.split("-")[0] for who in told}:
        ends = [end for who, end in bench.said.ends if who.startswith(f"{name}-") and end.state == "answered"]
        # one answer for each attempt, and a final one is the last: a body that came first stays the only one
        assert len({end.body for end in ends}) <= 1
