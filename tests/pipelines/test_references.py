"""Reference tables read back from Kafka."""

import uuid
from datetime import UTC, datetime

import pytest

from core.errors import DeclarationError
from core.settings import settings
from features.lookups import Lookup
from pipelines import references
from schemas.catalog.purchases import Merchant
from schemas.keys import key_of
from schemas.topic import Topic
from stack.local import Stack
from tests.jobs.on_flink.reference_topic import Reference


def merchant(name: str, size: str) -> Merchant:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Merchant(tenant="t", id=name, merchant_id=name, region="north", size=size, changed_at=at)


@pytest.mark.services
def test_a_table_is_read_with_its_changes_and_deletions(stack: Stack) -> None:
    del stack
    name = f"t{uuid.uuid4().hex[:8]}.reference.events.v1"
    topic = Topic(name, Merchant, partitions=3, cleanup="compact")
    merchants = Reference(Lookup("merchant", Merchant, on={"merchant_id": "merchant_id"}, topic=topic))
    assert merchants.table().num_rows == 0
    merchants.raw(key_of("t", "m0"), b"no Avro")
    rows = [merchant(f"m{n}", "small") for n in range(50)]
    merchants.put(*rows, *(merchant(f"m{n}", "large") for n in range(10)))
    for n in range(5):
        merchants.raw(key_of("t", f"m{n}"), None)
    merchants.put(merchant("m0", "medium"))
    sizes = {row["merchant_id"]: row["size"] for row in merchants.table().to_pylist()}
    assert sizes == {f"m{n}": "small" for n in range(10, 50)} | {
        "m0": "medium", **{f"m{n}": "large" for n in range(5, 10)}
    }  # fmt: skip


def test_a_lookup_on_no_topic_has_no_table() -> None:
    with pytest.raises(DeclarationError, match="merchant is on no topic"):
        references.read(Lookup("merchant", Merchant, on={"merchant_id": "merchant_id"}), settings())
