"""A batch with several versions: who scores which rows, and what happens to the rows a version fails on."""

from typing import Any

import pytest

from core.clock import ManualClock
from core.errors import ModelRefused
from jobs.worker.batch import BatchWork, Outputs
from jobs.worker.held import LiveRoute, Meter, Service, VersionBroken
from jobs.worker.inputs import Inputs
from jobs.worker.scoring import Declared, Scoring
from operators.dedupe import Dedupe
from operators.error_rates import ErrorRates
from operators.ports import Matrix
from pipelines.serving.assignment import place_of
from schemas.catalog.decisions import Decision
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry
from tests.jobs.worker.payments import BANDS, BREAKS, VIEW, EnrichedPayment, Formula, payment
from tests.schemas.memory_registry import MemoryRegistry

DECLARED = Declared("small", "card_id", "occurred_at", VIEW.feature_names, BANDS, batch=64)
REGISTRY = SchemaRegistry("http://registry", auto_register=True, transport=MemoryRegistry().transport())
INPUT: RecordCodec[Any] = RecordCodec(EnrichedPayment, REGISTRY, "in-value")
RESULT: RecordCodec[Decision] = RecordCodec(Decision, REGISTRY, "out-value")


class Picky(Formula):
    """Raises above an amount; breaks as a whole when told to."""

    def __init__(self, version: str, limit: float = 1e9) -> None:
        super().__init__(version)
        self.limit = limit

    def score(self, matrix: Matrix) -> Matrix:
        if (matrix[:, 0] > self.limit).any():
            raise RuntimeError("too much for this version")
        return super().score(matrix)


class Message:
    def __init__(self, offset: int, value: bytes) -> None:
        self._offset, self._value = offset, value

    def value(self) -> bytes:
        return self._value

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 2, 1000


def route(scorer: Formula, share: float = 1.0, arm: str = "champion", calls: int = 100) -> LiveRoute:
    meter = Meter()
    meter.calls = calls
    return LiveRoute(scorer.version, scorer, meter, share, arm)


def work(payments: list[Any], service: Service) -> tuple[Outputs, dict[str, Decision]]:
    clock = ManualClock()
    made = BatchWork(
        decoder=INPUT,
        encoder=RESULT,
        dedupe=Dedupe(),
        scoring=Scoring(DECLARED, clock=clock, reader=None),
        clock=clock,
        rates=ErrorRates("small", clock),
    )
    inputs = Inputs.of([Message(n, INPUT.encode(one)) for n, one in enumerate(payments)])  # type: ignore[misc]
    outputs = made.work(inputs, service)
    decisions = [RESULT.decode(value) for value in outputs.values]
    for index, decision in zip(outputs.indexes, decisions, strict=True):
        assert payments[index].id == decision.id  # a result goes to the partition of its own input
    answered = outputs.indexes + [refused.index for refused in outputs.refused]
    assert sorted(answered) == list(range(len(payments)))
    return outputs, {decision.id: decision for decision in decisions}


def test_a_canary_gets_the_rows_of_its_units_and_no_others() -> None:
    service = Service((route(Formula("1"), 0.6), route(Formula("2"), 0.4, "canary")), salt="s")
    payments = [payment(n, 100 + n, card_id=f"card-{n % 40}") for n in range(200)]
    _, decisions = work(payments, service)
    for one in payments:
        canary = place_of("s", f"acme|{one.card_id}") < 0.4
        found = decisions[one.id]
        assert (found.model_version, found.arm) == (("2", "canary") if canary else ("1", "champion"))
        assert found.assignment_unit == one.card_id
    assert len({decision.arm for decision in decisions.values()}) == 2


@pytest.mark.parametrize("arms", [1, 2])
def test_rows_that_a_version_fails_on_are_scored_by_the_one_before_it(arms: int) -> None:
    good, picky = Formula("1"), Picky("2", limit=500)
    if arms == 1:
        service = Service((route(picky),), backup=route(good))
    else:
        service = Service((route(good, 0.0), route(picky, 1.0, "canary")), salt="s")
    amounts = [100, 400, 600, BREAKS, 900]
    outputs, decisions = work([payment(n, amount) for n, amount in enumerate(amounts)], service)
    assert [(refused.index, refused.code) for refused in outputs.refused] == [(3, "model_failed")]
    for number, amount in enumerate(amounts):
        if amount != BREAKS:
            found = decisions[f"p-{number}"]
            fell = amount > 500
            assert found.model_version == ("1" if fell else "2")
            assert (found.level, found.degraded) == (("previous_version", True) if fell else ("live", False))
            assert ("too much for this version" in (found.degraded_reason or "")) == fell


def test_a_new_version_that_fails_on_what_its_predecessor_scores_is_unfit() -> None:
    service = Service((route(Picky("2", limit=500), calls=0),), backup=route(Formula("1")), first_batches=3)
    with pytest.raises(VersionBroken) as refused:
        work([payment(n, 600 + n) for n in range(10)], service)
    assert refused.value.version == "2"
    # the input's fault: the version before fails on it as well
    outputs, _ = work([payment(1, BREAKS)], service)
    assert [one.code for one in outputs.refused] == ["model_failed"]


def test_a_version_that_is_broken_as_a_whole_is_named() -> None:
    class Broken(Formula):
        def check(self) -> None:
            raise ModelRefused("golden outputs differ")

    service = Service((route(Formula("1"), 0.0), route(Broken("2", broken=True), 1.0, "canary")), salt="s")
    with pytest.raises(VersionBroken, match="golden outputs differ") as refused:
        work([payment(1, 100)], service)
    assert refused.value.version == "2"
