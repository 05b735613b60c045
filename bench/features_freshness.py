"""Freshness on the deployed pipelines: from an event that the gateway accepted to its value in Redis.

    rolling    payments at 200/s, one a request; from the client's 202 to the first read of the card that
               counts the payment. Every fourth payment is of a card of its own and is looked for; a value
               that is found must have the payment's amount
    windowed   user events at 50/s; from the end of a minute plus the view's disorder bound to the first read
               of a region that gives that minute, over all regions with an event in it. A value that is found
               must have counted the events sent
    POST /events   see `bench.features_ingest`

What is looked for is read every 5 ms, so that a value is found up to that much after it could be read.
"""

import asyncio
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from bench.features_deployed import Deployed, ToldOnErrors, deployed
from bench.features_ingest import WARM_UP_S as INGEST_WARM_UP_S
from bench.features_ingest import ingest_figures, user_event_bodies
from bench.harness import require_equal
from bench.open_loop import steadily
from core.clock import from_millis, to_millis
from core.errors import InternalError, Unavailable
from core.ids import new_id
from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.regional_demand import REGIONAL_DEMAND
from features.online.client import connect
from features.online.layout import layout_of
from features.online.packed_reader import PackedReader
from features.online.packed_redis import RedisPackedValues
from features.online.rolling import RollingStore
from gateway.client import Batch
from jobs.sources.generated import LABEL, generate
from stack.service import Progress

RATE, SECONDS, WARM_UP_S = 200.0, 30.0, 10.0
WINDOWED_RATE, WINDOW_ENDS = 50.0, 2
EACH = 4
"""One payment in so many is looked for."""
POLL_S, LOST_S, OVERRUN_S = 0.005, 30.0, 60.0
_DISORDER_MS = REGIONAL_DEMAND.disorder // timedelta(milliseconds=1)
_MINUTE_MS = 60_000
_KINDS = {"bookings": "booking", "searches": "search", "cancels": "cancel"}
_BEFORE_MS = 10_000  # of sending before the first end, at least: connections are made
_AFTER_MS = 5_000  # of sending after the last end: the clock of the stream must go on


class Accepted(NamedTuple):
    """A payment that is looked for."""

    at: float
    cents: int


def freshness_figures(
    *, seconds: float = SECONDS, warm_up_s: float = WARM_UP_S, window_ends: int = WINDOW_ENDS
) -> dict[str, float]:
    """All of them, in ms, on pipelines deployed for it. Takes four to six minutes: one to start, 40 s each
    of payments and of user events, and up to 135 s until two minutes have ended. What is done is told on
    standard error, figures included.

    Raises InternalError when a value is wrong or an event is not accepted, Unavailable when a value does not
    come within 30 s, or a measurement does not end within a minute of when it should.
    """
    told = ToldOnErrors()
    with deployed(told) as pipelines:
        return asyncio.run(_figures(pipelines, told, seconds, warm_up_s, window_ends))


async def _figures(
    pipelines: Deployed, told: Progress, seconds: float, warm_up_s: float, window_ends: int
) -> dict[str, float]:
    figures = await _told(
        told,
        "payments",
        warm_up_s + seconds,
        rolling_figures(pipelines, seconds=seconds, warm_up_s=warm_up_s),
    )
    figures |= await _told(
        told,
        "user events",
        INGEST_WARM_UP_S + seconds,
        ingest_figures(pipelines.url, pipelines.key(_tenant()), seconds=seconds),
    )
    windows = windowed_figures(pipelines, ends=window_ends)
    return figures | await _told(told, "windows", _windows_last_s(window_ends), windows)


async def _told(
    told: Progress, name: str, lasts_s: float, measured: Coroutine[None, None, dict[str, float]]
) -> dict[str, float]:
    """What is measured, in a time that is bounded, and told when it is there."""
    told.step(name, f"measuring for {lasts_s:.0f} s")
    try:
        async with asyncio.timeout(lasts_s + OVERRUN_S):
            figures = await measured
    except TimeoutError as error:
        raise Unavailable(f"{name}: not done {OVERRUN_S:g} s after the end", where="bench") from error
    for line in _shown(figures).splitlines():
        told.step(name, line)
    return figures


def _windows_last_s(ends: int) -> float:
    """From now until all that is sent for so many ends is sent."""
    now = to_millis(datetime.now(UTC))
    return (_end_after(now + _BEFORE_MS) + (ends - 1) * _MINUTE_MS + _AFTER_MS - now) / 1e3


async def rolling_figures(
    pipelines: Deployed, *, rate: float = RATE, seconds: float = SECONDS, warm_up_s: float = WARM_UP_S
) -> dict[str, float]:
    """From accepted to readable, payments of the first seconds left out."""
    tenant, run = _tenant(), new_id()[-8:]
    count, first = int(rate * (warm_up_s + seconds)), int(rate * warm_up_s)
    rows = _payments(count)
    waiting: dict[str, Accepted] = {}
    all_sent = asyncio.Event()
    with connect(pipelines.settings) as redis:
        finding = asyncio.create_task(_found(RollingStore(redis, CARD_ACTIVITY), tenant, waiting, all_sent))
        async with pipelines.client(tenant) as client:

            async def one(number: int, due: float) -> float:
                event = rows[number] | {"id": f"{run}-{number}", "occurred_at": datetime.now(UTC)}
                watched = number % EACH == 0 and number >= first
                if watched:
                    event["card_id"] = f"{run}-{number}"
                late = time.perf_counter() - due
                _require_accepted(await client.publish_batch("fraud", [event]))
                if watched:
                    waiting[event["card_id"]] = Accepted(time.perf_counter(), event["amount_cents"])
                return late

            try:
                late_s = await steadily(one, rate=rate, count=count)
                all_sent.set()
                took = np.array(await _within("payments", finding)) * 1e3
            finally:
                finding.cancel()
    name = f"rolling value readable after accepted, {rate:g}/s"
    return {
        f"{name}: p50 ms (goal 250)": float(np.quantile(took, 0.5)),
        f"{name}: p99 ms (goal 600)": float(np.quantile(took, 0.99)),
        f"{name}: max ms": float(took.max()),
        f"{name}: values looked for": float(len(took)),
        f"{name}: sent late, p99 ms": float(np.quantile(late_s[first:], 0.99) * 1e3),
    }


async def windowed_figures(
    pipelines: Deployed, *, rate: float = WINDOWED_RATE, ends: int = WINDOW_ENDS
) -> dict[str, float]:
    """From the end of a minute plus the disorder bound to readable: of all regions, over so many ends."""
    tenant = _tenant()
    now = to_millis(datetime.now(UTC))
    first_end = _end_after(now + _BEFORE_MS)
    last_end = first_end + (ends - 1) * _MINUTE_MS
    bodies = user_event_bodies()
    sent: dict[int, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    slow: set[tuple[int, str]] = set()  # may have come too late for their window

    with connect(pipelines.settings) as redis:
        reader = PackedReader(RedisPackedValues(redis))
        watching = asyncio.create_task(
            _windows(reader, tenant, range(first_end, last_end + 1, _MINUTE_MS), sent, slow)
        )
        async with pipelines.client(tenant) as client:

            async def one(number: int, due: float) -> None:
                at_ms = to_millis(datetime.now(UTC))
                event = next(bodies) | {"occurred_at": from_millis(at_ms)}
                end = _end_after(at_ms)
                sent[end][event["region"]][event["kind"]] += 1
                _require_accepted(await client.ingest([event]))
                if to_millis(datetime.now(UTC)) - at_ms > _DISORDER_MS // 2:
                    slow.add((end, event["region"]))

            try:
                count = int(rate * (last_end + _AFTER_MS - now) / 1e3)
                await steadily(one, rate=rate, count=count)
                took = np.array(await _within("windows", watching))
            finally:
                watching.cancel()
    name = "windowed value readable after end + disorder bound"
    return {
        f"{name}: p50 ms": float(np.quantile(took, 0.5)),
        f"{name}: max ms (goal 1,000)": float(took.max()),
        f"{name}: windows": float(len(took)),
        f"{name}: not compared, accepted slowly": float(len(slow)),
    }


async def _found(
    store: RollingStore, tenant: str, waiting: dict[str, Accepted], all_sent: asyncio.Event
) -> list[float]:
    """Seconds from accepted to readable of every payment that is put into `waiting` until all are sent."""
    took = []
    while waiting or not all_sent.is_set():
        cards = list(waiting)
        if cards:
            results = await asyncio.to_thread(store.read_many, tenant, cards, datetime.now(UTC))
            now = time.perf_counter()
            for card, result in zip(cards, results, strict=True):
                if result.values["count_10m"]:
                    payment = waiting.pop(card)
                    require_equal(f"amount of {card}", result.values["amount_sum_10m"], payment.cents)
                    took.append(now - payment.at)
        await asyncio.sleep(POLL_S)
    return took


async def _windows(
    reader: PackedReader,
    tenant: str,
    ends: range,
    sent: dict[int, dict[str, Counter[str]]],
    slow: set[tuple[int, str]],
) -> list[float]:
    """Milliseconds from when it is due to readable, of every region and window end."""
    layout = layout_of(REGIONAL_DEMAND)
    took = []
    for end in ends:
        due = end + _DISORDER_MS
        await asyncio.sleep((due - time.time() * 1e3) / 1e3)
        waiting = set(sent[end])
        while waiting:
            regions = sorted(waiting)
            results = await asyncio.to_thread(reader.read_many, layout, tenant, regions)
            now = time.time() * 1e3
            for region, read in zip(regions, results, strict=True):
                if read.event_time_ms == end:
                    waiting.remove(region)
                    took.append(now - due)
                    if (end, region) not in slow:
                        counted = {name: read.values[name] for name in _KINDS}
                        right = {name: sent[end][region][kind] for name, kind in _KINDS.items()}
                        require_equal(f"counts of {region} until {from_millis(end)}", counted, right)
            await asyncio.sleep(POLL_S)
    return took


async def _within(what: str, found: "asyncio.Task[list[float]]") -> list[float]:
    try:
        return await asyncio.wait_for(found, LOST_S)
    except TimeoutError as error:
        raise Unavailable(f"not readable within {LOST_S:g} s: {what}", where="bench") from error


def _payments(count: int) -> list[dict[str, Any]]:
    """As bodies without nulls, their ids and times to be replaced."""
    rows = generate(count).drop_columns(["tenant", LABEL]).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _end_after(at_ms: int) -> int:
    """Of the window that has this time."""
    return at_ms - at_ms % _MINUTE_MS + _MINUTE_MS


def _require_accepted(answer: Batch) -> None:
    for outcome in answer.outcomes:
        if not outcome.ok:
            raise InternalError(f"an event was answered {outcome.status}", where=str(outcome.problem)[:300])


def _tenant() -> str:
    """Of one measurement alone."""
    return f"bench-{new_id()[-12:].replace('-', '')}"


def _shown(figures: dict[str, Any]) -> str:
    return "".join(f"{name:<80}{value:12,.1f}\n" for name, value in figures.items())


if __name__ == "__main__":
    sys.stdout.write(_shown(freshness_figures()))
