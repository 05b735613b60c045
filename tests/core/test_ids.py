"""Ids sort by creation, digests are of content, canonical JSON does not depend on order."""

import uuid

from core.ids import canonical_json, digest, new_id


def test_ids_are_version_7_and_unique() -> None:
    made = [uuid.UUID(new_id()) for _ in range(1000)]
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
    assert len(set(made)) == 1000


def test_ids_sort_by_creation_across_milliseconds() -> None:
    first = new_id()
    later = first
    while later[:13] == first[:13]:
        later = new_id()
    assert first < later


def test_the_digest_is_sha256() -> None:
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_equal_values_have_equal_canonical_bytes() -> None:
    assert canonical_json({"b": 1, "a": [True, None]}) == canonical_json({"a": [True, None], "b": 1})
