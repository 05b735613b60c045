"""A view's stream by hand: events go in part by part, and its job runs in pieces, is killed, and resumes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute as pc

from cli.java import java_parts
from core.clock import to_millis
from core.settings import Settings
from core.telemetry.probe import Probe
from features.judge.sample import sample
from features.offline.history import compute, first_per_id
from features.times import millis
from features.view import FeatureView
from features.windows import Rolling
from jobs.on_flink.keeper import keep
from jobs.on_flink.rest import FlinkRest
from jobs.on_flink.stream import stream_of
from jobs.on_flink.submit import FlinkJob
from jobs.verification.own_run import send
from jobs.verification.shadow import made, shadow_name, shadow_of, stream_topics
from pipelines import recorded, references
from pipelines.plan import FeaturesPlan, Plan, ScoringPlan
from schemas.broker import producer
from schemas.headers import TICK
from schemas.topic import Topic
from tests.jobs.on_flink.live import wait_for

QUIET = timedelta(hours=1)
"""The stream's own clock sends no tick: how far time has come is said by the test alone."""
CHECKPOINT_S = 2.0
READY_S, OUT_S = 180.0, 120.0
Row = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Given:
    """What is sent, in order of arrival, and what is known of it beforehand.

    late: those that come behind an event of their own partition by more than the bound. All others are ahead
    of any clock: the stream's own as well as its ticks. So which are late does not depend on the run.
    """

    view: FeatureView
    events: pa.Table
    late: frozenset[tuple[str, str]]
    references: dict[str, pa.Table]

    @classmethod
    def of(cls, view: FeatureView, *, rows: int, seed: int) -> "Given":
        """Those of `features.judge.sample`; what is to be late goes to the partition of a newer event."""
        now = datetime.now(UTC).replace(microsecond=0)
        made = sample(view, rows=rows, seed=seed, until=now)
        events, late = made.events.to_pylist(), set()
        moved: dict[tuple[str, str], Row] = {}
        for number, event in enumerate(events):
            key = event["tenant"], event["id"]
            if key in moved:  # sent again
                events[number] = moved[key]
            elif key in made.late:
                before = max(events[max(number - 50, 0) : number], key=lambda one: one[view.time])
                owner = {name: before[name] for name in ("tenant", *view.entity_fields)}
                events[number] = moved[key] = event | owner
                late.add((owner["tenant"], event["id"]))
        table = pa.Table.from_pylist(events, schema=made.events.schema)
        return cls(view, table, frozenset(late), dict(made.references))

    def parts(self, number: int) -> list[pa.Table]:
        """About equal parts; all that comes after one and is not late is newer than all before, so that the
        time between two of them may be as long as it wants."""
        times = [at.as_py() for at in self.events.column(self.view.time)]
        keys = [*_keys(self.events, ("tenant", "id"))]
        newest = [max(times[: row + 1]) for row in range(len(times))]
        first = {key: row for row, key in reversed([*enumerate(keys)])}
        oldest = [datetime.max.replace(tzinfo=UTC)] * (len(times) + 1)
        for row, key in reversed([*enumerate(keys)]):
            counts = first[key] == row and key not in self.late
            oldest[row] = min(oldest[row + 1], times[row]) if counts else oldest[row + 1]
        cuts = [0]
        for part in range(1, number):
            at = len(times) * part // number
            cuts.append(next(row for row in range(at, len(times)) if oldest[row] > newest[row - 1]))
        return [
            self.events.slice(begin, end - begin)
            for begin, end in zip(cuts, [*cuts[1:], len(times)], strict=True)
        ]

    @cached_property
    def accepted(self) -> pa.Table:
        return first_per_id(self.events)

    def rows_of(self, events: pa.Table) -> pa.Table:
        """What DuckDB computes of those of them that are in time, in the end: in its order."""
        return compute(self.view, self._on_time(events), lookups=self.references)

    def _on_time(self, events: pa.Table) -> pa.Table:
        first = first_per_id(events)
        on_time = [key not in self.late for key in _keys(first, ("tenant", "id"))]
        return first.filter(pa.array(on_time, pa.bool_()))

    @cached_property
    def golden(self) -> dict[Key, Row]:
        """DuckDB's features of all that is sent, by key: of a rolling view of each event in time, of a
        windowed one of each window that the newest event has closed."""
        found = self.rows_of(self.events)
        if isinstance(self.view.window, Rolling):
            ids = _keys(self._on_time(self.events), ("tenant", "id"))
        else:
            until = pc.max(millis(self.events.column(self.view.time))).as_py()
            found = found.filter(pc.less_equal(millis(found.column("window_end")), until + 1))
            ids = _keys(found, ("tenant", *self.view.entity_fields, "window_end"))
        rows = found.select(self.view.feature_names).to_pylist()
        return dict(zip(ids, rows, strict=True))


class Flow:
    """The stream of a plan on topics of its own."""

    def __init__(self, plan: Plan, given: Given, settings: Settings) -> None:
        self.given = given
        self.name = shadow_name()
        self.plan = shadow_of(plan, self.name)
        self.rest = FlinkRest(settings.flink.address)
        self._settings = settings
        self._sent: list[pa.Table] = []

    @contextmanager
    def topics(self) -> Iterator[None]:
        with made(stream_topics(self.plan), self._settings):
            for lookup in self.plan.view.lookups:
                references.write(lookup, self.given.references[lookup.name], self._settings)
            yield

    def send(self, part: pa.Table) -> None:
        """Time then stands the bound behind the newest event in all partitions. What is newer stays in the
        job, the newest event at least, until more is sent or `all_out` lets it go."""
        send(self.plan.source, part, self._settings)
        self._sent.append(part)
        self._tick(self._newest - max(self.plan.view.disorder, timedelta(milliseconds=1)))

    @property
    def _newest(self) -> datetime:
        newest: datetime = max(pc.max(part.column(self.plan.view.time)).as_py() for part in self._sent)
        return newest

    def _tick(self, watermark: datetime) -> None:
        ticks = producer(self._settings, linger_ms=0)
        for partition in range(self.plan.source.partitions):
            ticks.produce(
                self.plan.source.name,
                value=None,
                partition=partition,
                timestamp=to_millis(watermark),
                headers=[("ce_type", TICK.encode())],
            )
        assert ticks.flush(10) == 0

    # -- the job ----------------------------------------------------------------------------------

    @contextmanager
    def keeping(self, parallelism: int = 1) -> Iterator[Probe]:
        """The job, running; it is stopped with a savepoint, from which the next one resumes."""
        flink = self._settings.flink.model_copy(
            update={"parallelism": parallelism, "checkpoint_interval_s": CHECKPOINT_S}
        )
        job = FlinkJob(stream_of(self.plan), self._settings.model_copy(update={"flink": flink}), java_parts())
        probe, stopping = Probe(), threading.Event()
        keeper = threading.Thread(
            target=keep, args=(job, stopping), kwargs={"quiet": QUIET, "probe": probe}, daemon=True
        )
        keeper.start()
        try:
            wait_for(f"{job.name} runs", lambda: probe.readiness()[0], READY_S)
            yield probe
        finally:
            stopping.set()
            keeper.join(60)
            assert not keeper.is_alive()
        assert [*job.folders.savepoints.glob("*/_metadata")], "the job took no savepoint"

    @property
    def job(self) -> str:
        (found,) = [job.id for job in self.rest.jobs(self.name) if not job.ended]
        return found

    def parallelism(self) -> set[int]:
        """Of the job's parts."""
        answer = httpx.get(f"{self.rest.url}/jobs/{self.job}").raise_for_status().json()
        return {part["parallelism"] for part in answer["vertices"]}

    def checkpoints(self) -> int:
        return int(self.rest.checkpoints(self.job)["completed"])

    def restored(self) -> int:
        return int(self.rest.checkpoints(self.job)["restored"])

    def close(self) -> None:
        """Cancel what a failed test left running."""
        for job in self.rest.jobs(self.name):
            if not job.ended:
                self.rest.cancel(job.id, timeout_s=20)
        self.rest.close()

    # -- what came out ----------------------------------------------------------------------------

    @property
    def output(self) -> Topic:
        if isinstance(self.plan, FeaturesPlan):
            return self.plan.rows
        assert isinstance(self.plan, ScoringPlan)
        return self.plan.enriched

    def under_way(self) -> bool:
        """Whether rows of what was sent have not come out, while nothing has come out twice."""
        sent = pa.concat_tables(self._sent)
        if isinstance(self.plan.view.window, Rolling):  # late or not, each event comes out
            return self.count() < first_per_id(sent).num_rows
        return self.count() < self.given.rows_of(sent).num_rows

    def count(self) -> int:
        return sum(recorded.ends(self.output, self._settings).values())

    def late(self) -> list[Key]:
        """The events that came out as late, as often as they did."""
        if isinstance(self.plan, FeaturesPlan):
            return [*_keys(recorded.read(self.plan.late, self._settings), ("tenant", "id"))]
        rows = recorded.read(self.output, self._settings)
        return [*_keys(rows.filter(rows.column("late")), ("tenant", "id"))]

    def rows(self) -> list[tuple[Key, Row]]:
        """What came out in time: key and features."""
        view, rows = self.plan.view, recorded.read(self.output, self._settings)
        if isinstance(self.plan, FeaturesPlan):
            ids = [*_keys(rows, ("tenant", *view.entity_fields, "window_end"))]
        else:
            rows = rows.filter(pc.invert(rows.column("late")))
            ids = [*_keys(rows, ("tenant", "id"))]
        return [*zip(ids, rows.select(view.feature_names).to_pylist(), strict=True)]

    def all_out(self) -> None:
        """Let everything out, wait for every row and every late event, and then for nothing more to come."""
        self._tick(self._newest)
        wanted, late = self.given.golden.keys(), self.given.late
        wait_for("every row", lambda: self.count() >= len(wanted), OUT_S)
        wait_for("every key", lambda: {key for key, _ in self.rows()} >= wanted, OUT_S)
        wait_for("every late event", lambda: {*self.late()} >= late, OUT_S)
        counts: list[int] = []

        def still() -> bool:
            counts.append(self.count())
            return len(counts) > 20 and counts[-1] == counts[-20]

        wait_for("nothing more", still, OUT_S)


def _keys(rows: pa.Table, names: tuple[str, ...]) -> Iterator[Key]:
    return zip(*(rows.column(name).to_pylist() for name in names), strict=True)
