"""Following a routing: what is loaded, what serves, what gives way, what is let go of. And who gets what."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from core.clock import ManualClock
from core.errors import ModelError, ModelRefused, Unavailable
from core.telemetry.metrics import REGISTRY
from jobs.worker.held import Assignments, LiveRoute, Meter, Service, VersionBroken
from jobs.worker.serving import Serving
from operators.ports import Scorer
from pipelines.serving.assignment import place_of
from schemas.catalog.models import ModelState, Operation, Route, Routing
from tests.jobs.worker.payments import Formula

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Source:
    """`bad` versions are refused, `away` ones could not be reached so many times; `loads` notes attempts."""

    def __init__(self, bad: tuple[str, ...] = (), away: int = 0) -> None:
        self.bad, self.away = bad, away
        self.loads: list[str] = []
        self.made: dict[str, Formula] = {}

    def champion(self) -> str:
        return "1"

    def load(self, version: str) -> Scorer:
        self.loads.append(version)
        if self.away:
            self.away -= 1
            raise Unavailable("the registry is away")
        if version in self.bad:
            raise ModelRefused("golden outputs differ")
        self.made[version] = Formula(version)
        return self.made[version]


def routing(revision: int, *routes: Route, **more: object) -> Routing:
    return Routing(
        tenant="system",
        id=f"m:{revision}",
        model="m",
        revision=revision,
        routes=list(routes),
        salt="s",
        decided_at=NOW,
        **more,  # type: ignore[arg-type]
    )


def serving(source: Source, first: Routing | None = None) -> Serving:
    made = Serving(source, pipeline="small", model="m", clock=ManualClock())
    made.start(first or routing(1, Route("1")))
    return made


def states(served: Serving) -> dict[str, ModelState]:
    return {state.version: state for state in served.told("w")}


def test_a_target_is_loaded_and_checked_beside_what_serves_and_then_swapped() -> None:
    source = Source()
    served = serving(source)
    before = served.current
    operation = Operation("c1", "swap", "2", "all", "health_check", NOW, NOW)
    served.follow(routing(2, Route("1"), standby=["2"], operation=operation))
    assert served.current.version == "1"
    told = states(served)
    assert (told["2"].state, told["2"].checked, told["2"].progress) == ("ready", "c1", 100)
    served.follow(routing(3, Route("2"), previous="1", deprecated=["1"]))
    assert served.current.version == "2"
    assert {version: state.state for version, state in states(served).items()} == {
        "1": "deprecated", "2": "active"
    }  # fmt: skip
    assert before.version == "1"  # a batch that began with it still has it
    assert source.loads == ["1", "2"]
    served.follow(routing(4, Route("2")))
    assert [state.gone for state in served.told("w") if state.version == "1"] == [True]
    assert list(states(served)) == ["2"]


def test_an_older_revision_is_not_followed() -> None:
    served = serving(Source(), routing(5, Route("2")))
    served.follow(routing(4, Route("1")))
    served.follow(routing(5, Route("1")))
    assert served.current.version == "2"


def test_a_refused_version_gives_way_to_the_previous_one_which_says_so() -> None:
    served = serving(Source(bad=("2",)), routing(7, Route("2"), previous="1", deprecated=["1"]))
    assert served.current.version == "1"
    assert "golden outputs" in (served.current.champion.fallback or "")
    told = states(served)
    assert (told["2"].state, told["1"].state) == ("failed", "active")
    served.follow(routing(8, Route("1"), failed=["2"]))  # the controller's answer
    assert served.current.champion.fallback is None


def test_a_version_that_was_given_up_is_loaded_again_when_it_is_wanted_again() -> None:
    source = Source(bad=("2",))
    served = serving(source)
    served.follow(routing(2, Route("1"), standby=["2"]))
    served.follow(routing(3, Route("1"), failed=["2"]))
    assert states(served)["2"].state == "failed"
    source.bad = ()
    served.follow(routing(4, Route("1"), standby=["2"]))
    assert states(served)["2"].state == "ready"
    assert source.loads == ["1", "2", "2"]


def test_a_store_that_is_away_for_a_moment_is_asked_again() -> None:
    source = Source(away=2)
    assert serving(source).current.version == "1"
    assert source.loads == ["1", "1", "1"]


def test_a_version_that_breaks_in_service_is_replaced_at_once_and_once() -> None:
    served = serving(Source(), routing(1, Route("2"), previous="1", deprecated=["1"]))
    broken = VersionBroken("2", "no number")
    assert served.broke(broken)
    assert served.current.version == "1"
    assert served.current.champion.fallback == "version 2: no number"
    assert served.broke(broken)  # a batch begun before says it again: another one serves already
    assert not served.broke(VersionBroken("1", "this one too"))  # nothing is left but to load it again
    assert served.current.version == "1"


def test_what_each_version_does_is_told_while_it_is_held() -> None:
    def told(metric: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"millstream_worker_{metric}", {"pipeline": "told", **labels})

    made = Serving(Source(), pipeline="told", model="m", clock=ManualClock())
    made.start(routing(1, Route("2"), previous="1"))
    assert told("version_share", version="2") == 1.0
    assert told("version_share", version="1") is None
    meter = made.current.champion.meter
    meter.add(np.full(30, 50, np.float32), 2, 1.0)
    meter.failed(3)
    assert told("version_records_total", version="2", outcome="scored") == 30
    assert told("version_records_total", version="2", outcome="failed") == 5
    assert made.broke(VersionBroken("2", "it raised"))
    assert told("failovers_total") == 1
    assert told("version_share", version="2") is None
    assert told("version_share", version="1") == 1.0
    made.follow(routing(2, Route("3")))
    assert told("version_records_total", version="2", outcome="scored") is None
    assert told("version_records_total", version="3", outcome="scored") == 0


def test_a_backup_that_breaks_is_left_out() -> None:
    served = serving(Source(), routing(1, Route("2"), previous="1", deprecated=["1"]))
    assert served.current.backup is not None
    assert served.broke(VersionBroken("1", "no number"))
    assert (served.current.version, served.current.backup) == ("2", None)


def test_a_canary_that_breaks_leaves_its_share_to_the_champion() -> None:
    served = serving(Source(), routing(1, Route("1", 0.8), Route("2", 0.2, "live", "canary"), previous="1"))
    assert [(r.version, r.arm) for r in served.current.routes] == [("1", "champion"), ("2", "canary")]
    assert served.broke(VersionBroken("2", "no number"))
    assert [(r.version, r.arm, r.fallback) for r in served.current.routes] == [("1", "champion", None)]


def test_nothing_to_serve_is_the_callers_to_wait_for_and_try_again() -> None:
    source = Source(bad=("1",))
    made = Serving(source, pipeline="small", model="m")
    for _ in range(2):
        with pytest.raises(ModelError):
            made.start(routing(1, Route("1")))
    source.bad = ()
    made.start(routing(1, Route("1")))
    assert made.current.version == "1"


def test_health_falls_with_the_errors_of_the_last_minute_and_recovers() -> None:
    clock = ManualClock()
    served = Serving(Source(), pipeline="small", model="m", clock=clock)
    served.start(routing(1, Route("1")))
    meter = served.current.champion.meter
    meter.add(np.array([0.0, 50.0, 99.9, 100.0], np.float32), 0, 2.0)
    (told,) = served.told("w")
    assert (told.records, told.errors, told.health, told.latency_ms) == (4, 0, 1.0, 2.0)
    assert [bucket for bucket, count in enumerate(told.scores) for _ in range(count)] == [0, 10, 19, 19]
    meter.add(np.full(60, 7.0, np.float32), 36, 2.0)
    clock.advance(timedelta(seconds=2))
    (told,) = served.told("w")
    assert (told.records, told.errors, told.health) == (64, 36, pytest.approx(0.64))
    for _ in range(40):
        clock.advance(timedelta(seconds=2))
        (told,) = served.told("w")
    assert (told.records, told.errors, told.health) == (0, 0, 1.0)


def test_who_leaves_says_so_of_every_version() -> None:
    served = serving(Source(), routing(1, Route("2"), previous="1", deprecated=["1"]))
    assert {(state.version, state.gone) for state in served.leaving("w")} == {("1", True), ("2", True)}


def service(*shares: float, salt: str = "s") -> Service:
    routes = [LiveRoute(str(n), Formula(str(n)), Meter(), share) for n, share in enumerate(shares)]
    return Service(tuple(routes), salt=salt)


def assigned(made: Service, tenants: list[str], units: list[str]) -> list[str]:
    parts = made.parts(pa.array(tenants), pa.array(units), Assignments())
    rows = np.concatenate([rows for _, rows in parts])
    assert sorted(rows.tolist()) == list(range(len(units)))  # every row once
    out = [""] * len(units)
    for route, where in parts:
        assert where.tolist() == sorted(where.tolist())
        for row in where.tolist():
            out[row] = route.version
            assert made.route_of(tenants[row], units[row]) is route  # one at a time as all together
    return out


def test_equal_units_have_equal_versions_and_shares_are_kept() -> None:
    units = [f"card-{number % 20_000}" for number in range(40_000)]
    tenants = ["acme" if number % 3 else "other" for number in range(40_000)]
    out = assigned(service(0.7, 0.2, 0.1), tenants, units)
    seen: dict[tuple[str, str], str] = {}
    for key, version in zip(zip(tenants, units, strict=True), out, strict=True):
        assert seen.setdefault(key, version) == version
    counts = Counter(seen.values())
    for version, share in (("0", 0.7), ("1", 0.2), ("2", 0.1)):
        assert counts[version] / len(seen) == pytest.approx(share, abs=0.01)
    assert any(seen[("acme", unit)] != seen.get(("other", unit), seen[("acme", unit)]) for _, unit in seen
               if ("acme", unit) in seen)  # fmt: skip


def test_a_share_that_grows_keeps_the_units_it_had_and_another_salt_has_others() -> None:
    units = [f"card-{number}" for number in range(5_000)]
    tenants = ["acme"] * len(units)
    held: set[str] = set()
    for share in (0.05, 0.2, 0.5, 0.9):
        out = assigned(service(1 - share, share), tenants, units)
        now = {unit for unit, version in zip(units, out, strict=True) if version == "1"}
        assert held <= now
        held = now
    other = assigned(service(0.5, 0.5, salt="t"), tenants, units)
    same = sum(
        version == "1"
        for unit, version in zip(units, other, strict=True)
        if place_of("s", f"acme|{unit}") < 0.5
    )
    assert 0.4 < same / (len(units) / 2) < 0.6
