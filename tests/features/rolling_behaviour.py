"""What every rolling store does: one suite, inherited by the one in memory and the one in Redis."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.clock import to_millis
from core.errors import InvalidInput
from features.offline.history import compute
from features.online.rows import ReadResult
from tests.features.oracle import naive, same
from tests.features.views import BEGIN, VIEW, Swipe, swipe, swipes, table


class Store(Protocol):
    def write(self, batch: pa.RecordBatch) -> None: ...

    def read(self, tenant: str, entity: str, at: datetime, own: Any = None) -> ReadResult: ...

    def read_many(self, tenant: str, entities: Sequence[str], at: datetime) -> list[ReadResult]: ...

    def read_rows(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...


Make = Callable[..., Store]


def batch(events: list[Swipe]) -> pa.RecordBatch:
    return table(events).combine_chunks().to_batches()[0]


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


class RollingBehaviour:
    """`make(cap=..., resolution=...)` gives an empty store of VIEW, or of `view`."""

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    # each backend inherits the suite and makes a store of its own
    @settings(
        deadline=None,
        max_examples=25,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(events=swipes(), shuffle=st.randoms(use_true_random=False))
    def test_any_order_and_any_repeats_read_as_the_oracle_says(
        self, make: Make, events: list[Swipe], shuffle: Any
    ) -> None:
        store, sent = make(), [*events, *events[::2]]
        shuffle.shuffle(sent)
        for begin in range(0, len(sent), 7):
            store.write(batch(sent[begin : begin + 7]))
        for row, event in zip(store.read_rows(batch(events)).to_pylist(), events, strict=True):
            same(row, naive(VIEW, events, event))

    def test_a_read_is_as_of_its_time_and_not_of_the_last_event(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(0, 0, cents=5), swipe(1, 8, cents=7), swipe(2, 30, cents=9)]))
        assert store.read("t", "a", at(8)).values["sum_10s"] == 12
        assert store.read("t", "a", at(10.001)).values["sum_10s"] == 7
        assert store.read("t", "a", at(29.999)).values["sum_60s"] == 12
        later = store.read("t", "a", at(75))
        assert later.values["sum_10s"] == 0
        assert later.values["sum_60s"] == 9
        assert later.event_time == at(30)

    def test_an_empty_window_gives_the_empty_values_and_says_so(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(0, 0, domain="x")]))
        found = store.read("t", "a", at(89))
        assert found.values["count_60s"] == 0
        assert found.values["mean_60s"] is None
        assert set(found.statuses.values()) == {"expired"}
        assert (found.event_time, found.age) == (at(0), timedelta(seconds=89))

    def test_each_feature_says_whether_its_own_window_has_something(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(0, 0, cents=5), swipe(1, 10, cents=7)]))
        found = store.read("t", "a", at(20.001))
        assert (found.values["sum_10s"], found.statuses["sum_10s"]) == (0, "expired")
        assert (found.values["sum_60s"], found.statuses["sum_60s"]) == (12, "fresh")
        assert (found.event_time_ms, found.age_ms) == (to_millis(at(10)), 10_001)
        # a column without a value in a window with rows: known to be nothing
        assert (found.values["weight_60s"], found.statuses["weight_60s"]) == (None, "fresh")
        assert list(found.values) == list(found.statuses) == list(VIEW.feature_names)

    def test_a_feature_expires_by_its_own_time_to_live_within_its_window(self, make: Make) -> None:
        short = replace(VIEW.features[1], ttl=timedelta(seconds=4))
        view = replace(VIEW, features=(VIEW.features[0], short, *VIEW.features[2:]))
        store = make(view=view)
        store.write(batch([swipe(0, 0, cents=5)]))
        there = store.read("t", "a", at(4))
        assert (there.values["sum_10s"], there.statuses["sum_10s"]) == (5, "fresh")
        gone = store.read("t", "a", at(4.001))
        assert (gone.values["sum_10s"], gone.statuses["sum_10s"]) == (0, "expired")
        assert (gone.values["count_10s"], gone.statuses["count_10s"]) == (1, "fresh")

    def test_before_its_first_event_an_entity_is_missing(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(0, 30)]))
        found = store.read("t", "a", at(29.999))
        assert set(found.statuses.values()) == {"missing"}
        assert (found.event_time, found.age) == (None, None)

    def test_a_window_whose_rows_may_be_gone_already_is_truncated(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(0, 0), swipe(1, 30), swipe(2, 100)]))  # kept: 10 s and later
        assert set(store.read("t", "a", at(70)).statuses.values()) == {"fresh", "expired"}
        found = store.read("t", "a", at(39.999)).statuses
        assert (found["count_10s"], found["count_60s"]) == ("fresh", "truncated")
        assert set(store.read("t", "a", at(5)).statuses.values()) == {"truncated"}

    def test_many_are_read_as_each_one_is(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(n, n % 50, card=f"c{n % 300}", cents=n) for n in range(900)]))
        asked = [f"c{n % 310}" for n in range(600)]
        found = store.read_many("t", asked, at(55))
        assert found == [store.read("t", card, at(55)) for card in asked]
        assert {status for read in found for status in read.statuses.values()} == {
            "fresh", "expired", "missing",
        }  # fmt: skip
        assert store.read_many("t", [], at(55)) == []

    def test_an_entity_that_nobody_saw_is_missing(self, make: Make) -> None:
        found = make().read("t", "nobody", at(0))
        assert set(found.statuses.values()) == {"missing"}
        assert found.values["count_10s"] == 0
        assert found.values["max_10s"] is None
        assert not found.truncated

    def test_the_own_record_counts_once_stored_or_not(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(0, 0, cents=5)]))
        own = {"id": "1", "cents": 20, "channel": None, "domain": "x", "weight": None, "trusted": None}
        before = store.read("t", "a", at(1), own)
        assert (before.values["count_10s"], before.values["sum_10s"]) == (2, 25)
        store.write(batch([swipe(1, 1, cents=20, domain="x")]))
        assert store.read("t", "a", at(1), own) == before == store.read("t", "a", at(1))

    def test_the_first_row_of_an_id_stays(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(0, 0, cents=5)]))
        store.write(batch([swipe(0, 0, cents=6)]))
        assert store.read("t", "a", at(0)).values["sum_10s"] == 5

    def test_tenants_do_not_meet(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(0, 0), swipe(0, 0, tenant="u"), swipe(0, 0, tenant="t|a", card="a")]))
        for tenant in ("t", "u", "t|a"):
            assert store.read(tenant, "a", at(0)).values["count_10s"] == 1

    def test_above_the_cap_whole_tiles_stay_exact_and_cut_ones_say_truncated(self, make: Make) -> None:
        store = make(cap=10, resolution=timedelta(seconds=5))
        events = [
            swipe(n, n, cents=n * n, domain=f"d{n % 4}", weight=n / 8, channel=n % 3) for n in range(60)
        ]
        for event in events:
            store.write(batch([event]))
        # 50 s ago is the start of a tile, 10 s ago are rows: nothing is cut
        whole = store.read("t", "a", at(60))
        assert not whole.truncated
        same(dict(whole.values), naive(VIEW, events, swipe("x", 60)))  # type: ignore[arg-type]
        cut = store.read("t", "a", at(62))
        assert cut.truncated
        later = store.read("t", "a", at(68)).statuses
        assert (later["count_10s"], later["count_60s"]) == ("fresh", "truncated")
        exact = naive(VIEW, events, swipe("x", 62))["count_60s"]  # type: ignore[arg-type]
        assert exact <= cut.values["count_60s"] <= exact + 5  # type: ignore[operator]

    def test_a_repeat_of_a_folded_row_changes_nothing(self, make: Make) -> None:
        store = make(cap=10, resolution=timedelta(seconds=5))
        events = [swipe(n, n) for n in range(40)]
        store.write(batch(events))
        before = store.read("t", "a", at(40))
        store.write(batch(events))
        assert store.read("t", "a", at(40)) == before
        assert before.values["count_60s"] == 40

    def test_rows_older_than_the_time_to_live_go(self, make: Make) -> None:
        store = make()
        store.write(batch([swipe(0, 0), swipe(1, 90), swipe(2, 90.001)]))
        assert store.read("t", "a", at(59)).values["count_60s"] == 0
        assert store.read("t", "a", at(91)).values["count_60s"] == 2

    def test_stored_rows_read_as_history_computes_them(self, make: Make) -> None:
        store = make()
        events = [swipe(n, n * 1.5, cents=n * 77, card="ab"[n % 2]) for n in range(50)]
        store.write(batch(events))
        last = events[-6:]
        wanted = compute(VIEW, table(events)).slice(len(events) - 6).to_pylist()
        for row, right in zip(store.read_rows(batch(last)).to_pylist(), wanted, strict=True):
            same(row, {name: right[name] for name in VIEW.feature_names})

    def test_what_has_no_key_or_time_is_refused(self, make: Make) -> None:
        rows = batch([swipe(0, 0)])
        without = rows.set_column(0, "tenant", pa.array([None], pa.string()))
        with pytest.raises(InvalidInput):
            make().write(without)
        with pytest.raises(InvalidInput, match="cents"):
            make().write(rows.drop_columns(["cents"]))
