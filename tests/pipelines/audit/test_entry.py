"""An entry's hash covers everything that it says, and its chain has no gaps."""

import hashlib
import json
from datetime import UTC, datetime

import msgspec
import pytest

from pipelines.audit.entry import BEGUN, ENDED, TEXT_LIMIT, Chain, digest_of
from tests.pipelines.audit.chains import AT, chain, event


def test_the_hash_is_what_anybody_can_compute_from_the_json_of_the_other_fields() -> None:
    entry = chain()[2]
    fields = msgspec.to_builtins(entry)
    del fields["hash"]
    fields["at"] = entry.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert entry.hash == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", [name for name in chain()[2].spec().names if name != "hash"])
def test_no_field_can_change_under_the_hash(name: str) -> None:
    entry = chain()[2]
    value = getattr(entry, name)
    other = {str: "x", int: 99, datetime: datetime(2020, 1, 1, tzinfo=UTC), dict: {}}[type(value)]
    assert digest_of(msgspec.structs.replace(entry, **{name: other})) != entry.hash


def test_a_chain_begins_names_its_process_and_ends() -> None:
    entries = chain(5)
    assert [entry.sequence for entry in entries] == [0, 1, 2, 3, 4]
    assert [entry.previous for entry in entries] == ["", *(entry.hash for entry in entries[:-1])]
    assert entries[0].action == BEGUN
    assert entries[0].detail == {"kind": "gateway", "host": "host"}
    assert entries[-1].action == ENDED


def test_two_processes_never_share_a_chain() -> None:
    assert Chain("gateway", host="a").writer != Chain("gateway", host="a").writer


def test_what_is_told_is_bounded_and_holds_nothing_that_a_store_or_terminal_chokes_on() -> None:
    made = Chain("gateway", host="host")
    made.begin(AT)
    many = {f"name{n}": "ü" * 10_000 for n in range(1_000)}
    entry = made.add(event(target="a\x00b\x1b[31m\ud800" + "x" * 9_000, detail=many))
    assert entry.target.startswith("a?b?[31m?x")
    assert len(entry.target) == TEXT_LIMIT
    assert len(msgspec.json.encode(entry)) < 60_000
    entry.target.encode()


def test_what_was_dropped_is_told_by_the_next_entry() -> None:
    made = Chain("gateway", host="host")
    made.begin(AT)
    assert made.add(event(), dropped=3).detail["dropped"] == "3"
