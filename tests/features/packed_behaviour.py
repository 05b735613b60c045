"""What packed values do, wherever they lie: one suite, inherited by memory and Redis.

The oracle is a dictionary of what was written, and the definition of the statuses in `packed_layouts`.
"""

import itertools
import random
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.clock import ManualClock, to_millis
from core.errors import InvalidInput
from features.online.packed import PackedLayout
from features.online.packed_codec import PackedCodec
from features.online.packed_reader import PackedReader
from features.online.packed_values import Entry
from features.online.packed_writer import PackedRow, PackedWriter
from tests.features.packed_backend import ROW, Backend, counted, fresh_tenant, numbers, row
from tests.features.packed_layouts import (
    DEMAND,
    LAYOUTS,
    NOW,
    NOW_MS,
    WORDS,
    event_times,
    int64s,
    read_naively,
    values_of,
)

SETTINGS = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class PackedBehaviour:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    @pytest.fixture
    def reader(self, backend: Backend) -> PackedReader:
        return PackedReader(backend.values, ManualClock(NOW))

    # ---- reading what was written

    def test_every_feature_has_value_time_age_and_status(
        self, backend: Backend, reader: PackedReader
    ) -> None:
        tenant = fresh_tenant()
        written = PackedWriter(backend.values, DEMAND).write([row("north", NOW_MS - 30_000, tenant=tenant)])
        assert written == ["written"]
        found = reader.read(DEMAND, tenant, "north")
        assert dict(found.values) == dict(zip(DEMAND.names, ROW, strict=True))
        assert list(found.values) == list(DEMAND.names)
        assert set(found.statuses.values()) == {"fresh"}
        assert found.event_time == NOW - timedelta(seconds=30)
        assert found.age == timedelta(seconds=30)
        assert not found.truncated

    def test_an_entity_that_nobody_wrote_is_missing(self, reader: PackedReader) -> None:
        found = reader.read(DEMAND, fresh_tenant(), "nowhere")
        assert found.values == {
            "bookings": 0, "conversion": None, "surge": False, "searches": -1, "trend": 0.5
        }  # fmt: skip
        assert found.statuses == dict.fromkeys(DEMAND.names, "missing")
        assert (found.event_time, found.age) == (None, None)

    @SETTINGS
    @given(data=st.data(), layout=st.sampled_from(LAYOUTS))
    def test_one_many_and_columns_read_as_the_definition_says(
        self, backend: Backend, reader: PackedReader, data: Any, layout: PackedLayout
    ) -> None:
        tenant = fresh_tenant()
        edges = st.sampled_from([0, 40_000, 40_001, 60_000, 60_001, 80_000, 80_001, 120_000, 120_001])
        stored = data.draw(
            st.dictionaries(
                st.text(max_size=3),
                st.tuples(
                    (edges | st.integers(-(10**6), 10**12)).map(lambda age: NOW_MS - age), values_of(layout)
                ),
                max_size=6,
            )
        )
        PackedWriter(backend.values, layout).write(
            [row(entity, at, 0, values, tenant) for entity, (at, values) in stored.items()]
        )
        asked = (
            data.draw(st.lists(st.sampled_from(sorted(stored)) | st.text(max_size=3), max_size=12))
            if stored
            else ["x"]
        )
        wanted = [read_naively(layout, stored.get(entity), NOW_MS) for entity in asked]
        batch = reader.read_batch(layout, tenant, asked)
        batch.validate(full=True)
        assert batch.to_pylist() == wanted
        lists = reader.read_lists(layout, tenant, asked)
        assert list(lists.values) == list(lists.statuses) == list(layout.names)
        assert lists.values == {name: [right[name] for right in wanted] for name in layout.names}
        assert lists.statuses == {name: [right["status"][name] for right in wanted] for name in layout.names}
        assert lists.ages_ms == [right["age_ms"] for right in wanted]
        times = [right["event_time"] for right in wanted]
        assert lists.event_times_ms == [None if time is None else to_millis(time) for time in times]
        for entity, right in zip(asked, wanted, strict=True):
            found = reader.read(layout, tenant, entity)
            flat = {"event_time": found.event_time, "age_ms": found.age_ms, **found.values}
            assert flat | {"status": found.statuses} == right

    def test_lists_of_whole_values_say_what_each_read_says(
        self, backend: Backend, reader: PackedReader
    ) -> None:
        fields = tuple(replace(field, ttl=None) for field in DEMAND.fields)
        layout, tenant = replace(DEMAND, fields=fields), fresh_tenant()
        ages = [0, 59_999, 60_000, 60_001, 119_999, 120_000, -5]  # fresh until 60 s, stale until 120 s
        entities = [f"e{age}" for age in ages]
        PackedWriter(backend.values, layout).write(
            [
                row(f"e{age}", NOW_MS - age, 0, (n, n / 3, n % 2 == 0, -n, 0.25), tenant)
                for n, age in enumerate((*ages, 120_001))
            ]
        )
        for asked in (entities, [*entities, "e120001"], [*entities, "nowhere"], entities[:1]):
            lists, reads = reader.read_lists(layout, tenant, asked), reader.read_many(layout, tenant, asked)
            assert lists.values == {name: [read.values[name] for read in reads] for name in layout.names}
            assert lists.statuses == {name: [read.statuses[name] for read in reads] for name in layout.names}
            assert lists.event_times_ms == [read.event_time_ms for read in reads]
            assert lists.ages_ms == [read.age_ms for read in reads]
            assert [repr(value) for value in lists.values["surge"]] == [
                repr(read.values["surge"]) for read in reads
            ]
        told = reader.read_lists(layout, tenant, entities).statuses["trend"]
        assert told == ["fresh"] * 3 + ["stale"] * 3 + ["fresh"]

    def test_nothing_asked_and_nothing_given(self, backend: Backend, reader: PackedReader) -> None:
        assert PackedWriter(backend.values, DEMAND).write([]) == []
        for layout in LAYOUTS:
            batch = reader.read_batch(layout, "t", [])
            assert batch.num_rows == 0
            assert batch.schema.names == ["event_time", "age_ms", *layout.names, "status"]
            lists = reader.read_lists(layout, "t", [])
            assert lists.values == lists.statuses == {name: [] for name in layout.names}

    # ---- compare-and-set

    @SETTINGS
    @given(
        writes=st.lists(
            st.tuples(st.sampled_from("ab"), event_times, int64s | st.integers(0, 3), st.integers(0, 3)),
            max_size=25,
        ),
        near=st.booleans(),
        size=st.integers(1, 30),
    )
    def test_the_newest_stays_in_any_order_and_batching(
        self, backend: Backend, writes: list[tuple[str, int, int, int]], near: bool, size: int
    ) -> None:
        tenant = fresh_tenant()
        writer = PackedWriter(backend.values, DEMAND)
        kept: dict[str, tuple[tuple[int, int], int]] = {}
        if near:  # many of one event time, so that the sequence decides
            writes = [(entity, at % 3, sequence, value) for entity, at, sequence, value in writes]
        for begin in range(0, len(writes), size):
            part = writes[begin : begin + size]
            for entity, at, sequence, value in part:
                if entity not in kept or (at, sequence) > kept[entity][0]:
                    kept[entity] = ((at, sequence), value)
            outcomes = writer.write(
                [row(entity, at, n, (value, None, None, None, None), tenant) for entity, at, n, value in part]
            )
            for (entity, at, sequence, value), outcome in zip(part, outcomes, strict=True):
                if (at, sequence) < kept[entity][0]:
                    assert outcome == "older"
                else:
                    assert outcome == ("written" if value == kept[entity][1] else "conflict")
        codec = PackedCodec(DEMAND)
        for entity in "ab":
            (data,) = backend.values.get([DEMAND.key(tenant, entity)])
            if entity not in kept:
                assert data is None
            else:
                assert data is not None
                found = codec.decode(data)
                assert ((found.event_time_ms, found.sequence), found.values[0]) == kept[entity]

    def test_racing_writers_leave_the_newest(self, backend: Backend) -> None:
        tenant, entities, randoms = fresh_tenant(), "abc", random.Random(7)
        versions = [(at, sequence) for at in range(40) for sequence in range(3)]
        start = threading.Barrier(3)
        outcomes: list[tuple[PackedRow, Any]] = []
        seen: list[tuple[int, int]] = []
        codec, stop = PackedCodec(DEMAND), threading.Event()

        def write(rows: list[PackedRow]) -> None:
            writer = PackedWriter(backend.values, DEMAND)
            start.wait()
            for begin in range(0, len(rows), 5):
                part = rows[begin : begin + 5]
                outcomes.extend(zip(part, writer.write(part), strict=True))

        def watch() -> None:
            start.wait()
            while not stop.is_set():
                (data,) = backend.values.get([DEMAND.key(tenant, "a")])
                if data is not None:
                    seen.append(codec.decode(data)[:2])

        halves: list[list[PackedRow]] = [[], []]
        for entity, (at, sequence) in itertools.product(entities, versions):
            given_to = randoms.choice(([0], [1], [0, 1]))
            for half in given_to:
                halves[half].append(row(entity, at, sequence, (at, 0.5, True, sequence, None), tenant))
        for half in halves:
            randoms.shuffle(half)
        writers = [threading.Thread(target=write, args=(half,)) for half in halves]
        watcher = threading.Thread(target=watch)
        for thread in (*writers, watcher):
            thread.start()
        for thread in writers:
            thread.join()
        stop.set()
        watcher.join()

        assert len(outcomes) == len(halves[0]) + len(halves[1])
        assert {outcome for _, outcome in outcomes} <= {"written", "older"}
        assert seen == sorted(seen)  # never back
        for entity in entities:
            given_rows = [(one, outcome) for one, outcome in outcomes if one.entity == entity]
            newest = max((one.event_time_ms, one.sequence) for one, _ in given_rows)
            (data,) = backend.values.get([DEMAND.key(tenant, entity)])
            assert data is not None
            assert codec.decode(data) == (*newest, (newest[0], 0.5, True, newest[1], None))
            won = [outcome for one, outcome in given_rows if (one.event_time_ms, one.sequence) == newest]
            assert set(won) == {"written"}

    def test_the_same_again_is_no_failure_and_no_longer_life(self, backend: Backend) -> None:
        layout = replace(DEMAND, ttl=timedelta(seconds=1), fields=DEMAND.fields[:1], fresh_for=None)
        tenant, writer = fresh_tenant(), PackedWriter(backend.values, layout)
        same = row("a", NOW_MS, 0, (5,), tenant)
        assert writer.write([same, same]) == ["written", "written"]
        backend.pass_time(timedelta(milliseconds=200))
        assert writer.write([same]) == ["written"]
        backend.pass_time(timedelta(milliseconds=850))
        assert backend.values.get([layout.key(tenant, "a")]) == [None]

    def test_what_became_of_each_row_is_counted(self, backend: Backend) -> None:
        layout = replace(DEMAND, view=f"counted{next(numbers)}")
        writer = PackedWriter(backend.values, layout)
        writer.write([row("a", 5), row("b", 5), row("b", 4), row("c", 1, values=(1,))])
        writer.write([row("a", 4), row("a", 5, values=(0, 0.0, True, 0, None))])
        found = {
            outcome: counted("online_packed_writes", view=layout.view, outcome=outcome)
            for outcome in ("written", "older", "conflict", "refused", "repaired")
        }
        assert found == {"written": 2, "older": 2, "conflict": 1, "refused": 1, "repaired": 0}

    def test_what_cannot_be_stored_is_refused_and_the_rest_written(
        self, backend: Backend, reader: PackedReader
    ) -> None:
        tenant = fresh_tenant()
        outcomes = PackedWriter(backend.values, DEMAND).write(
            [
                row("a", NOW_MS, tenant=tenant),
                row("b", NOW_MS, values=(1, float("nan"), None, None, None), tenant=tenant),
                row("c", NOW_MS, values=(1, None, None, None, float("inf")), tenant=tenant),
                row("d", NOW_MS, tenant=tenant),
                row(5, NOW_MS, tenant=tenant),  # type: ignore[arg-type]
            ]
        )
        assert [isinstance(outcome, InvalidInput) for outcome in outcomes] == [False, True, True, False, True]
        assert "conversion" in str(outcomes[1])
        statuses = [reader.read(DEMAND, tenant, entity).statuses["bookings"] for entity in "abcd"]
        assert statuses == ["fresh", "missing", "missing", "fresh"]

    # ---- time to live, damage, other layouts

    def test_a_value_is_forgotten_after_its_time_to_live(self, backend: Backend) -> None:
        layout = replace(DEMAND, ttl=timedelta(seconds=1), fields=DEMAND.fields[:1], fresh_for=None)
        tenant = fresh_tenant()
        PackedWriter(backend.values, layout).write([row("a", NOW_MS, 0, (5,), tenant)])
        reader = PackedReader(backend.values, ManualClock(NOW))
        assert reader.read(layout, tenant, "a").values == {"bookings": 5}
        backend.pass_time(timedelta(milliseconds=1_010))
        assert reader.read(layout, tenant, "a").statuses == {"bookings": "missing"}

    @pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.view)
    def test_every_damaged_byte_reads_as_missing_and_is_counted(
        self, backend: Backend, layout: PackedLayout
    ) -> None:
        layout = replace(layout, view=f"damaged{next(numbers)}")
        values = {"bookings": ROW}.get(layout.names[0], ("x", 1, "yz", 0.5, True))
        codec, tenant = PackedCodec(layout), fresh_tenant()
        whole = codec.encode(NOW_MS, 1, values)
        entities = [f"e{at}" for at in range(len(whole))]
        for at, entity in enumerate(entities):
            damaged = bytearray(whole)
            damaged[at] ^= 1 + at % 255
            backend.plant(layout.key(tenant, entity), bytes(damaged))
        reader = PackedReader(backend.values, ManualClock(NOW))
        wanted = read_naively(layout, None, NOW_MS)
        assert reader.read_batch(layout, tenant, entities).to_pylist() == [wanted] * len(entities)
        for entity in entities:
            assert set(reader.read(layout, tenant, entity).statuses.values()) == {"missing"}
        lists = reader.read_lists(layout, tenant, entities)
        for told in lists.statuses.values():
            assert set(told) == {"missing"}
        assert counted("online_packed_unreadable", view=layout.view, reason="damaged") == 3 * len(whole)

    @SETTINGS
    @given(data=st.data(), layout=st.sampled_from(LAYOUTS))
    def test_whole_absent_damaged_and_foreign_values_of_one_read_do_not_mix(
        self, backend: Backend, reader: PackedReader, data: Any, layout: PackedLayout
    ) -> None:
        tenant, codec = fresh_tenant(), PackedCodec(layout)
        foreign = PackedCodec(replace(layout, digest="5a" * 32))
        states = data.draw(st.lists(st.sampled_from(["whole", "absent", "damaged", "foreign"]), max_size=8))
        wanted = []
        for at, state in enumerate(states):
            age, values = data.draw(st.integers(0, 130_000)), data.draw(values_of(layout))
            stored = (NOW_MS - age, values) if state == "whole" else None
            wanted.append(read_naively(layout, stored, NOW_MS))
            value = bytearray((foreign if state == "foreign" else codec).encode(NOW_MS - age, 0, values))
            if state == "damaged":
                value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
            if state != "absent":
                backend.plant(layout.key(tenant, f"e{at}"), bytes(value))
        asked = [f"e{at}" for at in range(len(states))]
        assert reader.read_batch(layout, tenant, asked).to_pylist() == wanted
        lists = reader.read_lists(layout, tenant, asked)
        assert lists.values == {name: [right[name] for right in wanted] for name in layout.names}
        assert lists.statuses == {name: [right["status"][name] for right in wanted] for name in layout.names}

    def test_what_is_damaged_is_replaced_by_the_next_write_of_any_version(self, backend: Backend) -> None:
        """A rebuild writes what was there: the same version again, and a flipped time may look newer."""
        layout = replace(DEMAND, view=f"repaired{next(numbers)}")
        codec, tenant = PackedCodec(layout), fresh_tenant()
        whole = codec.encode(NOW_MS, 1, ROW)
        rows = []
        for at in range(len(whole)):
            damaged = bytearray(whole)
            damaged[at] ^= 0x40
            backend.plant(layout.key(tenant, f"e{at}"), bytes(damaged))
            rows.append(row(f"e{at}", NOW_MS, 1, tenant=tenant))
        assert set(PackedWriter(backend.values, layout).write(rows)) == {"written"}
        reader = PackedReader(backend.values, ManualClock(NOW))
        for one in rows:
            assert set(reader.read(layout, tenant, one.entity).statuses.values()) == {"fresh"}
        assert counted("online_packed_writes", view=layout.view, outcome="repaired") > 16

    def test_a_damaged_value_gives_way_only_as_it_was_found(self, backend: Backend) -> None:
        """Whoever repaired it in between is not overwritten."""
        codec, tenant = PackedCodec(DEMAND), fresh_tenant()
        key = DEMAND.key(tenant, "a")
        newer, older = codec.encode(9, 0, ROW), codec.encode(8, 0, ROW)
        damaged = newer[:-1] + bytes([newer[-1] ^ 1])
        backend.plant(key, newer)
        assert backend.values.put([Entry(key, older, instead_of=damaged)], 60_000) == [newer]
        backend.plant(key, damaged)
        assert backend.values.put([Entry(key, older)], 60_000) == [damaged]
        assert backend.values.put([Entry(key, older, instead_of=damaged)], 60_000) == [None]
        assert backend.values.get([key]) == [older]

    def test_what_is_put_says_whether_it_is_there(self, backend: Backend) -> None:
        codec, tenant = PackedCodec(DEMAND), fresh_tenant()
        key, other = DEMAND.key(tenant, "a"), DEMAND.key(tenant, "b")
        value, same_version = codec.encode(9, 0, ROW), codec.encode(9, 0, (4, *ROW[1:]))
        newer, of_words = codec.encode(9, 1, ROW), PackedCodec(WORDS).encode(10, 0, ("", 1, "", 0.5, True))
        assert backend.values.put([Entry(key, value), Entry(other, newer)], 60_000) == [None, None]
        assert backend.values.put([Entry(key, value), Entry(other, value)], 60_000) == [None, newer]
        assert backend.values.put([Entry(key, same_version)], 60_000) == [value]
        for planted in (of_words, b"", b"short", value[:24]):
            backend.plant(key, planted)
            assert backend.values.put([Entry(key, value)], 60_000) == [None]
            assert backend.values.get([key, other]) == [value, newer]

    def test_a_value_of_another_meaning_reads_as_missing_until_it_is_written_anew(
        self, backend: Backend
    ) -> None:
        was = replace(DEMAND, view=f"changed{next(numbers)}", digest="77" * 32)
        now = replace(was, digest=DEMAND.digest)
        PackedWriter(backend.values, was).write([row("a", NOW_MS)])
        reader = PackedReader(backend.values, ManualClock(NOW))
        assert set(reader.read(now, "t", "a").statuses.values()) == {"missing"}
        assert reader.read_lists(now, "t", ["a"]).ages_ms == [None]
        assert reader.read_batch(now, "t", ["a"]).column("age_ms").null_count == 1
        assert counted("online_packed_unreadable", view=now.view, reason="fingerprint") == 3
        assert PackedWriter(backend.values, now).write([row("a", NOW_MS - 5)]) == ["written"]
        assert set(reader.read(now, "t", "a").statuses.values()) == {"fresh"}

    def test_tenants_views_and_versions_do_not_meet(self, backend: Backend, reader: PackedReader) -> None:
        unique = fresh_tenant()
        names = [
            "",
            "a",
            "A",
            "a|b",
            "a%7Cb",
            "{a}",
            "}",
            "{",
            "a b\r\n",
            "\0",
            "ü",
            "u\u0308",
            "☃" * 500,
            "\ud800",
        ]
        places = [
            (layout, f"{unique}{tenant}", entity)
            for layout in (DEMAND, replace(DEMAND, version=2), replace(DEMAND, view="demand_x"))
            for tenant in ("", "|", "a|b", "}")
            for entity in names
        ]
        for number, (layout, tenant, entity) in enumerate(places):
            values = (number, None, None, None, None)
            assert PackedWriter(backend.values, layout).write([row(entity, NOW_MS, 0, values, tenant)]) == [
                "written"
            ]
        for number, (layout, tenant, entity) in enumerate(places):
            assert reader.read(layout, tenant, entity).values["bookings"] == number
        assert reader.read(DEMAND, f"{unique}{unique}", "a").statuses["bookings"] == "missing"
