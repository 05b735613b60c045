"""The shipped view of merchants, on an hour whose figures can be told by hand, and against the oracle."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalog.merchant_activity import MERCHANT_ACTIVITY
from features.offline.history import compute
from schemas.catalog.purchases import MERCHANTS, Merchant, Purchase
from tests.features.oracle import naive_windows, same
from tests.features.rides import table

NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def bought(number: int, at: datetime, cents: int, merchant: str = "corner", **more: Any) -> Purchase:
    given: dict[str, Any] = {"tenant": "t", "customer_id": f"c{number % 3}", "items": 2} | more
    return Purchase(id=str(number), merchant_id=merchant, occurred_at=at, amount_cents=cents, **given)


def known(merchant: str, size: str, tenant: str = "t") -> Merchant:
    return Merchant(
        tenant=tenant, id=merchant, merchant_id=merchant, region="north", size=size, changed_at=NOON
    )


def activity(events: list[Purchase], merchants: list[Merchant]) -> list[dict[str, Any]]:
    reference = {"merchant": table(Merchant, merchants)}
    found: list[dict[str, Any]] = compute(
        MERCHANT_ACTIVITY, table(Purchase, events), lookups=reference
    ).to_pylist()
    return found


def at(rows: list[dict[str, Any]], end: datetime, merchant: str = "corner") -> dict[str, Any]:
    (row,) = [row for row in rows if (row["merchant_id"], row["window_end"]) == (merchant, end)]
    return row


def test_an_hour_by_hand() -> None:
    events = [
        bought(1, NOON - 59 * MINUTE, 2_000),
        bought(2, NOON - 30 * MINUTE, 10_000),
        bought(3, NOON - MINUTE, 9_999, items=5),
        bought(4, NOON - MINUTE, 50_000, "mall"),
        bought(5, NOON - MINUTE, 500_000, "unknown"),
        bought(6, NOON + 59 * MINUTE, 1_000),
    ]
    rows = activity(events, [known("corner", "small"), known("mall", "large"), known("corner", "large", "u")])
    row = at(rows, NOON)
    assert (row["purchases"], row["customers"], row["revenue_cents"]) == (3, 3, 21_999)
    assert (row["mean_basket_cents"], row["largest_basket_cents"]) == (7_333.0, 10_000)
    assert (row["items_per_purchase"], row["large_baskets"]) == (3.0, 1)
    assert row["large_basket_share"] == pytest.approx(10_000 / 21_999)
    assert (row["region"], row["revenue_change_cents"]) == ("north", 21_999)
    assert at(rows, NOON + 60 * MINUTE)["revenue_change_cents"] == 1_000 - 21_999
    assert at(rows, NOON, "mall")["large_baskets"] == 0
    unknown = at(rows, NOON, "unknown")
    assert (unknown["revenue_cents"], unknown["large_baskets"], unknown["region"]) == (500_000, 0, None)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_every_window_is_the_oracle_s(data: st.DataObject) -> None:
    events = [
        bought(
            number,
            NOON - timedelta(seconds=data.draw(st.integers(0, 9_000))),
            data.draw(st.sampled_from([0, 9_999, 10_000, 50_000, 200_000])),
            data.draw(st.sampled_from(["corner", "mall", "unknown"])),
            tenant=data.draw(st.sampled_from(["t", "u"])),
        )
        for number in range(data.draw(st.integers(1, 20)))
    ]
    sizes = st.sampled_from(["small", "medium", "large", "huge"])
    merchants = [
        known(name, data.draw(sizes), tenant) for name in ("corner", "mall") for tenant in ("t", "u")
    ]
    found = activity(events, merchants)
    wanted = naive_windows(MERCHANT_ACTIVITY, events, {"merchant": merchants})
    assert len(found) == len(wanted)
    for row, right in zip(found, wanted, strict=True):
        same(row, right)


def test_its_reference_is_a_compacted_topic() -> None:
    (lookup,) = MERCHANT_ACTIVITY.lookups
    assert lookup.topic is MERCHANTS
    assert (MERCHANTS.cleanup, Merchant.spec().entity) == ("compact", "merchant_id")
