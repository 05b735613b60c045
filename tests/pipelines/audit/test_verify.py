"""Each way of tampering is found, named with its entry, in one copy alone and against the other."""

import msgspec
import pytest

from core.errors import InvalidInput
from pipelines.audit.entry import digest_of
from pipelines.audit.heads import parse_head
from pipelines.audit.verify import Allowances
from schemas.catalog.security import AuditEntry
from tests.pipelines.audit.chains import chain, findings, told, witness


def rehashed(entry: AuditEntry, **changes: object) -> AuditEntry:
    changed = msgspec.structs.replace(entry, **changes)
    return msgspec.structs.replace(changed, hash=digest_of(changed))


def rewritten(entries: list[AuditEntry], at: int, **changes: object) -> list[AuditEntry]:
    """The chain with one entry changed and every later hash made anew."""
    made, previous = entries[:at], entries[at].previous
    for number, entry in enumerate(entries[at:]):
        made.append(rehashed(entry, previous=previous, **(changes if number == 0 else {})))
        previous = made[-1].hash
    return made


def test_good_chains_have_no_findings() -> None:
    one, other = chain(), chain(3, "cli")
    both = [*one, *other, *witness(one, other)]
    assert findings(both, both) == []
    assert findings(both) == []
    assert findings(None, both) == []


def test_a_repeat_on_kafka_is_no_second_entry() -> None:
    entries = chain()
    assert findings(entries, [*entries[:4], *entries[2:]]) == []


@pytest.mark.parametrize("gone", [1, 3])
def test_a_removed_entry_is_a_gap(gone: int) -> None:
    entries = chain()
    left = entries[:gone] + entries[gone + 1 :]
    assert told(findings(left)) == [("removed", gone, gone, "postgres")]
    assert told(findings(left, entries)) == [("removed", gone, gone, "postgres")]
    assert told(findings(entries, left)) == [("removed", gone, gone, "kafka")]


def test_a_removed_beginning_and_a_removed_chain_are_found() -> None:
    entries = chain()
    assert told(findings(entries[2:])) == [("removed", 0, 1, "postgres")]
    assert told(findings([], entries)) == [("removed", 0, 5, "postgres")]
    assert told(findings(entries, [])) == [("removed", 0, 5, "kafka")]


@pytest.mark.parametrize(
    "changes", [{"actor": "somebody else"}, {"outcome": "denied"}, {"detail": {}}, {"hash": "0" * 64}]
)
def test_a_changed_entry_is_found(changes: dict[str, object]) -> None:
    entries = chain()
    bad = [*entries]
    bad[3] = msgspec.structs.replace(entries[3], **changes)
    assert ("changed", 3, 3, "postgres") in told(findings(bad))
    assert {one.sequence for one in findings(bad, entries)} <= {3, 4}


def test_a_changed_entry_with_a_right_hash_is_found_by_the_one_that_follows() -> None:
    entries = chain()
    bad = [*entries]
    bad[3] = rehashed(entries[3], actor="somebody else")
    assert told(findings(bad)) == [("forged", 4, 4, "postgres")]
    assert ("forged", 3, 3, "kafka and postgres") in told(findings(bad, entries))


def test_a_chain_that_was_written_anew_is_found_by_the_other_copy_and_by_a_head() -> None:
    entries = chain()
    bad = rewritten(entries, 3, actor="somebody else")
    assert findings(bad) == []  # which is why there are two copies and witnesses
    assert ("forged", 3, 3, "kafka and postgres") in told(findings(bad, entries))
    assert told(findings([*bad, *witness(entries)])) == [("forged", 5, 5, "postgres")]


def test_swapped_entries_are_found() -> None:
    entries = chain()
    bad = [*entries]
    bad[2] = msgspec.structs.replace(entries[3], sequence=2)
    bad[3] = msgspec.structs.replace(entries[2], sequence=3)
    assert told(findings(bad))[:2] == [("reordered", 2, 2, "postgres"), ("reordered", 3, 3, "postgres")]


def test_entries_in_another_order_on_kafka_are_found() -> None:
    entries = chain()
    moved = [*entries[:2], entries[3], entries[2], *entries[4:]]
    assert told(findings(None, moved)) == [("reordered", 2, 2, "kafka")]
    assert ("reordered", 0, 0, "kafka") in told(findings(None, [*entries[1:], entries[0]]))


def test_a_second_entry_in_the_place_of_another_is_found() -> None:
    entries = chain()
    forged = rehashed(entries[3], actor="somebody else")
    assert told(findings(None, [*entries, forged])) == [("forged", 3, 3, "kafka")]


def test_an_end_that_was_cut_off_one_copy_is_found_by_the_other() -> None:
    entries = chain()
    assert told(findings(entries[:4], entries)) == [("cut off", 4, 5, "postgres")]
    assert told(findings(entries, entries[:4])) == [("cut off", 4, 5, "kafka")]


def test_an_end_that_was_cut_off_both_is_found_by_a_witness_or_a_noted_head() -> None:
    entries = chain()
    seen = witness(entries)
    cut = entries[:4]
    assert findings(cut, cut) == []
    assert told(findings([*cut, *seen], [*cut, *seen])) == [
        ("cut off", 4, 5, "kafka"),
        ("cut off", 4, 5, "postgres"),
    ]
    noted = parse_head(f"{entries[-1].writer}:5:{entries[-1].hash}")
    assert told(findings(cut, cut, given=[noted])) == [
        ("cut off", 4, 5, "kafka"),
        ("cut off", 4, 5, "postgres"),
    ]
    assert ("removed", 0, 5, "postgres") in told(findings([], [], given=[noted]))


def test_what_follows_the_end_of_a_chain_was_not_written_by_its_owner() -> None:
    entries = chain()
    more = rehashed(entries[2], sequence=6, id=f"{entries[0].writer}/6", previous=entries[-1].hash)
    assert told(findings([*entries, more])) == [("forged", 6, 6, "postgres")]


def test_what_was_not_copied_yet_is_not_missing() -> None:
    entries, writer = chain(), chain()[0].writer
    writer = entries[0].writer
    waiting = Allowances(waiting={writer: 4})
    assert findings(entries[:4], entries, allowed=waiting) == []
    assert findings([], entries, allowed=Allowances(waiting={writer: 0})) == []
    assert told(findings(entries[:3], entries, allowed=waiting)) == [("cut off", 3, 3, "postgres")]
    gap = entries[:2] + entries[3:5]
    assert told(findings(gap, entries, allowed=waiting)) == [("removed", 2, 2, "postgres")]


def test_what_retention_took_from_kafka_is_not_missing_there() -> None:
    entries = chain()
    expired = Allowances(expired={entries[0].writer: 3})
    assert findings(entries, entries[3:], allowed=expired) == []
    assert told(findings(entries, entries[4:], allowed=expired)) == [("removed", 3, 3, "kafka")]
    assert told(findings(entries[3:], entries[3:], allowed=expired)) == [("removed", 0, 2, "postgres")]


def test_an_absurd_number_costs_nothing_and_is_found() -> None:
    entries = chain()
    far = 2**62
    bad = [*entries[:-1], rehashed(entries[-1], sequence=far, id=f"{entries[0].writer}/{far}")]
    assert ("removed", 5, far - 1, "postgres") in told(findings(bad, entries))
    assert told(findings(bad, bad))


@pytest.mark.parametrize("text", ["", "a:b:c", "w:1:zz", f"w:-1:{'0' * 64}", f"w:1:{'0' * 63}"])
def test_a_head_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no head"):
        parse_head(text)
