"""`features backfill`, `correct`, `rebuild`, `compact`, `training-set`: history, and what is made of it."""

from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.features.views import Output, plan_of, show, show_one, time_of
from core.errors import InvalidInput, UnknownName
from core.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.offline.batch import Span
    from features.offline.tabular import Tabular
    from jobs.batch.rebuild import Newer
    from pipelines.plan import FeaturesPlan, Plan
    from pipelines.recorded import Recorded
    from schemas.topic import Topic


def register(group: typer.Typer) -> None:
    @group.command()
    def backfill(
        view: str,
        begin: Annotated[str, typer.Option("--from", help="RFC 3339 time or date, UTC; not included")],
        end: Annotated[str, typer.Option("--to", help="RFC 3339 time or date, UTC; included")],
        on: Annotated[str, typer.Option(help="duckdb: here | flink: in batch mode on a cluster")] = "duckdb",
        output: Output = "table",
    ) -> None:
        """Compute a view's history from recorded events.

        Windows that end after --from, up to --to; of a rolling view events from --from on, before --to. Rows
        that are there stay as they are: a second backfill adds nothing twice. On Flink the rows go over the
        view's topic, and from there to both stores.
        """
        from features.offline.batch import Span

        plan, span = plan_of(view), Span(time_of(begin), time_of(end))
        if on == "duckdb":
            show_one(_with_duckdb(plan, span), output)
        elif on == "flink":
            show_one(_with_flink(_windowed(view), span), output)
        else:
            raise UnknownName("engine", on, ("duckdb", "flink"))

    @group.command()
    def correct(view: str, output: Output = "table") -> None:
        """Recompute the windows that late events belong to; send what differs with a higher sequence."""
        from core.clock import SystemClock
        from jobs.batch.correct import CorrectedTopics
        from jobs.batch.correct import correct as run
        from pipelines.outbox import Outbox
        from pipelines.references import tables
        from schemas.broker import producer

        plan = _windowed(view)
        outbox = Outbox(lambda: producer(settings()))
        topics = CorrectedTopics(events=plan.source, rows=plan.rows, late=plan.late)
        lookups = tables(plan.view, settings())
        show_one(
            _fields(run(plan.view, topics, settings(), outbox, clock=SystemClock(), lookups=lookups)), output
        )

    @group.command()
    def rebuild(view: str, output: Output = "table") -> None:
        """Fill the online store again from the offline store and Kafka, beside a running writer."""
        from core.clock import SystemClock
        from features.online.client import connect
        from features.online.layout import layout_of
        from features.online.packed_redis import RedisPackedValues
        from features.online.packed_writer import PackedWriter
        from features.online.rolling_restore import RollingRestore
        from features.windows import Rolling
        from jobs.batch.rebuild import rebuild_events, rebuild_windows
        from pipelines import recorded

        plan, client = plan_of(view), connect(settings())
        with TemporaryDirectory(prefix="rebuild-") as folder:
            rows = recorded.tables(output_of(plan), settings(), Path(folder))
            if isinstance(plan.view.window, Rolling):
                store, newer = RollingRestore(client, plan.view), _newer(output_of(plan), rows, Path(folder))
                found = rebuild_events(plan.view, rows.tables, store, clock=SystemClock(), newer=newer)
            else:
                writer = PackedWriter(RedisPackedValues(client), layout_of(plan.view))
                found = rebuild_windows(plan.view, rows.tables, writer, clock=SystemClock())
        show_one(_fields(found), output)

    @group.command()
    def compact(
        tables: Annotated[list[str] | None, typer.Argument(help="tables; all of them without a name")] = None,
        output: Output = "table",
    ) -> None:
        """Merge the small files of the offline store's tables; the writer does it too, now and then."""
        from jobs.batch.compact import compact_tables

        done = compact_tables(settings().root, tables or ())
        show([{"table": name} | _fields(one) for name, one in done.items()], output)

    @group.command()
    def feast(
        registry: Annotated[
            str | None, typer.Option(help="PostgreSQL URL; SQLite in the data folder without")
        ] = None,
        output: Output = "table",
    ) -> None:
        """Put all views and services into Feast's registry; Feast's own clients and commands then work."""
        from features.on_feast.repository import apply, feature_store, repository
        from pipelines.load import load_plans, load_services
        from pipelines.offline import offline_path

        plans = {plan.view.name: plan for plan in load_plans().values()}
        history = {name: offline_path(settings().root, output_of(plan).name) for name, plan in plans.items()}
        store = feature_store(settings(), registry=registry)
        apply(store, [plan.view for plan in plans.values()], load_services(), history=history)
        folder = repository(settings(), registry=registry)
        show_one({"views": len(plans), "services": len(load_services()), "repository": str(folder)}, output)

    @group.command()
    def reference(
        view: str,
        lookup: str,
        rows: Annotated[Path, typer.Argument(help="Parquet: the columns of the lookup's record")],
        output: Output = "table",
    ) -> None:
        """Publish rows of a reference table that a view looks up; each replaces that of its key."""
        import pyarrow.parquet as pq

        from pipelines.references import write

        declared = {one.name: one for one in plan_of(view).view.lookups}
        if lookup not in declared:
            raise UnknownName("lookup", lookup, declared, where=f"feature view {view}")
        table = pq.read_table(rows)
        write(declared[lookup], table, settings())
        show_one({"rows": table.num_rows, "lookup": lookup}, output)

    @group.command("training-set")
    def training_set(
        entities: Annotated[Path, typer.Argument(help="Parquet: tenant, entity fields, a time, and more")],
        to: Annotated[Path, typer.Option("--to", help="the Parquet file to be written")],
        feature: Annotated[
            list[str] | None, typer.Option("--feature", "-f", help="view:feature; may be repeated")
        ] = None,
        service: Annotated[str | None, typer.Option(help="a feature service instead")] = None,
        time: Annotated[str, typer.Option(help="the column of the entities' times")] = "event_time",
        times: Annotated[bool, typer.Option(help="also the time of the row used, per view")] = False,
        output: Output = "table",
    ) -> None:
        """Join features to entities as of each entity's time: every row comes back, none sees its future."""
        from features.offline.training import FeatureRows, write_training_set
        from features.online.selection import Readable
        from pipelines import recorded
        from pipelines.load import load_plans, load_services

        if (service is None) == (not feature):
            raise InvalidInput("features or a service", mend="give --feature, once or more, or --service")
        plans = {plan.view.name: plan for plan in load_plans().values()}
        readable = Readable([plan.view for plan in plans.values()], load_services())
        selection = readable.service(service) if service is not None else readable.features(feature or [])
        with TemporaryDirectory(prefix="training-set-") as folder:
            sources = []
            for view, _ in selection:
                found = recorded.tables(output_of(plans[view.name]), settings(), Path(folder)).tables
                if not found:
                    raise InvalidInput(
                        f"nothing is recorded of {view.name}",
                        mend=f"run its pipeline, or `millstream features backfill {view.name}`",
                    )
                sources.append(FeatureRows(view, found))
            rows = write_training_set(
                str(entities),
                [f"{view.name}.{name}" for view, names in selection for name in names],
                sources,
                to=to,
                time=time,
                times=times,
            )
        show_one({"rows": rows, "file": str(to)}, output)


def _with_duckdb(plan: "Plan", span: "Span") -> dict[str, Any]:
    from core.clock import SystemClock
    from jobs.batch.backfill import backfill
    from pipelines import recorded
    from pipelines.references import tables

    with TemporaryDirectory(prefix="backfill-") as folder:
        found = backfill(
            plan.view,
            output_of(plan),
            span,
            recorded.tables(plan.source, settings(), Path(folder)).tables,
            root=settings().root,
            clock=SystemClock(),
            lookups=tables(plan.view, settings()),
        )
    return _fields(found)


def _with_flink(plan: "FeaturesPlan", span: "Span") -> dict[str, Any]:
    from cli.java import java_parts
    from features.compile.flink_batch import WindowedBatch
    from features.compile.flink_windows import WindowedStream
    from jobs.on_flink.batch import backfill_on_flink
    from pipelines.recorded import bounds

    stream = WindowedStream(plan.pipeline, plan.source, plan.view, plan.rows, plan.late)
    _, until = bounds(plan.source, settings())
    backfill_on_flink(WindowedBatch(stream, span, until), settings(), java_parts())
    return {"view": plan.view.name, "topic": plan.rows.name, "events": sum(until.values())}


def _newer(topic: "Topic", known: "Recorded", folder: Path) -> "Newer":
    """What the topic has beyond what is known, and then beyond that."""
    from pipelines import recorded

    last, numbers = known, count()

    def newer() -> "Sequence[Tabular]":
        nonlocal last
        part = folder / str(next(numbers))
        part.mkdir()
        last = recorded.tables(topic, settings(), part, since=last.ends)
        return last.tables

    return newer


def output_of(plan: "Plan") -> "Topic":
    """The topic of what is computed of the view: feature rows, or enriched events."""
    from pipelines.plan import FeaturesPlan, ScoringPlan

    if isinstance(plan, FeaturesPlan):
        return plan.rows
    if isinstance(plan, ScoringPlan):
        return plan.enriched
    raise InvalidInput(f"{plan.pipeline} computes no features")


def _windowed(view: str) -> "FeaturesPlan":
    from pipelines.plan import FeaturesPlan

    plan = plan_of(view)
    if not isinstance(plan, FeaturesPlan):
        raise InvalidInput(f"{view} has no windows", mend="late rows of a rolling view come out marked")
    return plan


def _fields(found: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found)
