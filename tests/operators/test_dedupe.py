"""Dedupe: agrees with a naive set, can be asked again before it is told, forgets by its horizon only."""

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DeclarationError
from operators.dedupe import Dedupe, Horizon, record_keys


def rows(dedupe: Dedupe, keys: list[str]) -> list[int]:
    found: list[int] = dedupe.first(keys).tolist()
    return found


@given(st.lists(st.lists(st.sampled_from([f"id-{i}" for i in range(12)]), max_size=10), max_size=20))
def test_first_per_key_agrees_with_a_set(batches: list[list[str]]) -> None:
    dedupe, seen = Dedupe(), set[str]()
    for at, keys in enumerate(batches):
        expected = []
        for row, key in enumerate(keys):
            if key not in seen:
                seen.add(key)
                expected.append(row)
        assert rows(dedupe, keys) == expected
        dedupe.remember([keys[row] for row in expected], at)
    assert len(dedupe) == len(seen)


def test_asking_changes_nothing() -> None:
    dedupe = Dedupe()
    assert rows(dedupe, ["a", "b", "a"]) == [0, 1]
    assert rows(dedupe, ["a", "b", "a"]) == [0, 1]
    dedupe.remember(["a"], 0)
    assert rows(dedupe, ["a", "b", "a"]) == [1]


def test_old_ids_are_forgotten_only_once_enough_newer_ones_are_known() -> None:
    dedupe = Dedupe(Horizon(age=timedelta(seconds=10), at_least=2, at_most=100))
    dedupe.remember(["a"], 0)
    dedupe.remember(["b"], 60_000)
    assert rows(dedupe, ["a"]) == []  # an outage: the clock went on, the inputs did not
    dedupe.remember(["c"], 60_001)
    assert rows(dedupe, ["a"]) == [0]
    assert rows(dedupe, ["b", "c"]) == []


def test_within_the_age_nothing_is_forgotten_however_many_come() -> None:
    dedupe = Dedupe(Horizon(age=timedelta(seconds=10), at_least=1, at_most=1000))
    for number in range(100):
        dedupe.remember([f"id-{number}"], number * 100)
    assert rows(dedupe, [f"id-{number}" for number in range(100)]) == []


def test_memory_is_bounded_and_the_newest_stay() -> None:
    dedupe = Dedupe(Horizon(age=timedelta(days=1), at_least=0, at_most=10))
    dedupe.remember([f"id-{number}" for number in range(25)], 0)
    dedupe.remember(["last"], 1)
    assert len(dedupe) == 10
    assert "last" in dedupe
    assert "id-24" in dedupe
    assert "id-15" not in dedupe


def test_the_same_id_of_two_tenants_is_two() -> None:
    batch = pa.record_batch({"tenant": ["a", "b", "a"], "id": ["1", "1", "1"]})
    assert rows(Dedupe(), record_keys(batch)) == [0, 1]


def test_tenant_and_id_do_not_run_together() -> None:
    batch = pa.record_batch({"tenant": ["ab", "a"], "id": ["c", "bc"]})
    assert rows(Dedupe(), record_keys(batch)) == [0, 1]


@pytest.mark.parametrize(
    "given",
    [
        {"age": timedelta(0)},
        {"at_least": 5, "at_most": 4},
        {"at_least": -1},
        {"at_least": 0, "at_most": 0},
    ],
)
def test_a_horizon_without_sense_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(DeclarationError):
        Horizon(**given)  # type: ignore[arg-type]


def test_what_is_remembered_is_what_was_given_and_not_what_was_asked_about() -> None:
    dedupe = Dedupe()
    asked = ["a", "b"]
    assert dedupe.first(asked).tolist() == [0, 1]
    dedupe.remember(["b", "c"], 0)
    assert [key in dedupe for key in "abc"] == [False, True, True]
    dedupe.remember(asked, 1)
    assert len(dedupe) == 3
    assert dedupe.first(["c", "a", "d"]).tolist() == [2]


def test_an_id_remembered_again_is_held_once() -> None:
    dedupe = Dedupe(Horizon(age=timedelta(seconds=1), at_least=0, at_most=3))
    keys = ["a", "b"]
    dedupe.first(keys)
    dedupe.remember(keys, 0)
    dedupe.remember(keys, 0)
    for key in "cdef":
        dedupe.remember([key], 0)
    assert [key in dedupe for key in "abcdef"] == [False, False, False, True, True, True]
