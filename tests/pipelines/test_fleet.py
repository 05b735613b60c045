"""The fleet: which of several records counts, and what all workers together come to."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.serving.fleet import SILENT, Fleet
from schemas.catalog.models import ModelState, Route, Routing

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def routing(revision: int, version: str, controller: str = "a") -> Routing:
    return Routing(
        tenant="system",
        id=f"m:{revision}",
        model="m",
        revision=revision,
        routes=[Route(version)],
        salt="m",
        controller=controller,
        decided_at=NOW,
    )


def state(
    instance: str, version: str, word: str = "active", *, ago_s: float = 0, **more: object
) -> ModelState:
    return ModelState(
        tenant="system",
        id=f"{instance}:{version}",
        model="m",
        version=version,
        instance=instance,
        pipeline="p",
        state=word,  # type: ignore[arg-type]
        at=NOW - timedelta(seconds=ago_s),
        **{"health": 1.0, **more},  # type: ignore[arg-type]
    )


def test_the_highest_revision_counts_and_of_two_the_first() -> None:
    fleet = Fleet().routed(routing(2, "1")).routed(routing(1, "9")).routed(routing(2, "8", "rival"))
    assert fleet.active == "1"
    assert fleet.routed(routing(3, "2")).active == "2"


def test_the_order_in_which_states_arrive_does_not_matter() -> None:
    told = [state("a", "1", word, ago_s=ago) for ago, word in enumerate(("ready", "loading", "failed"))]
    for seed in range(6):
        fleet = Fleet()
        for one in random.Random(seed).sample(told, 3):
            fleet = fleet.told(one)
        assert fleet.state_of("1") == "ready"


def test_who_is_silent_is_gone_and_what_is_let_go_of_too() -> None:
    fleet = Fleet().told(state("a", "1")).told(state("b", "1", ago_s=SILENT.total_seconds() + 1))
    assert fleet.living(NOW).instances == {"a"}
    assert fleet.told(state("a", "1", gone=True)).instances == {"b"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("active", "active"), "active"),
        (("active", "ready"), "ready"),
        (("ready", "loading"), "loading"),
        (("active", "failed"), "failed"),
    ],
)
def test_the_state_furthest_from_serving_is_that_of_all(words: tuple[str, str], expected: str) -> None:
    fleet = Fleet().told(state("a", "1", words[0])).told(state("b", "1", words[1]))
    assert fleet.state_of("1") == expected


def test_figures_are_summed_and_health_is_the_mean_over_all_workers() -> None:
    fleet = Fleet(routing(1, "1"))
    fleet = fleet.told(state("a", "1", records=30, latency_ms=1.0, scores=[1, 2], health=1.0, progress=100))
    fleet = fleet.told(state("b", "1", records=10, latency_ms=5.0, scores=[0, 4], health=0.5, progress=10))
    fleet = fleet.told(state("c", "2"))
    view = fleet.view("1")
    assert view is not None
    assert (view.id, view.records, view.scores, view.progress, view.instances) == ("m:1", 40, [1, 6], 10, 2)
    assert (view.latency_ms, view.health, view.share) == (2.0, 0.5, 1.0)
    assert fleet.view("7") is None
