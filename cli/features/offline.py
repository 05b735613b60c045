"""`features backfill`, `correct`, `rebuild`, `compact`, `training-set`: history, and what is made of it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.features.views import Output, plan_of, show, show_one, time_of
from core.errors import InvalidInput, UnknownName
from core.settings import settings

if TYPE_CHECKING:
    from pipelines.plan import FeaturesPlan, Plan
    from schemas.topic import Topic


def register(group: typer.Typer) -> None:
    @group.command()
    def backfill(
        view: str,
        begin: Annotated[str, typer.Option("--from", help="RFC 3339 time or date, UTC; not included")],
        end: Annotated[str, typer.Option("--to", help="RFC 3339 time or date, UTC; included")],
        output: Output = "table",
    ) -> None:
        """Compute a view's history from recorded events and add it to the offline store.

        Windows that end after --from, up to --to; of a rolling view events from --from on, before --to. Rows
        that are there stay as they are: a second backfill adds nothing twice.
        """
        from core.clock import SystemClock
        from features.batch import Span
        from jobs.batch.backfill import backfill as run
        from jobs.batch.recorded import recorded
        from pipelines.references import tables

        plan = plan_of(view)
        span = Span(time_of(begin), time_of(end))
        with TemporaryDirectory(prefix="backfill-") as folder:
            events = recorded(plan.source, settings(), Path(folder))
            found = run(
                plan.view,
                output_of(plan),
                span,
                events.tables,
                root=settings().root,
                clock=SystemClock(),
                lookups=tables(plan.view, settings()),
            )
        show_one(_fields(found), output)

    @group.command()
    def correct(view: str, output: Output = "table") -> None:
        """Recompute the windows that late events belong to; send what differs with a higher sequence."""
        from core.clock import SystemClock
        from jobs.batch.correct import CorrectedTopics
        from jobs.batch.correct import correct as run
        from jobs.writer.outbox import Outbox
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
        from features.online.rolling import RollingStore
        from features.windows import Rolling
        from jobs.batch.rebuild import rebuild_events, rebuild_windows
        from jobs.batch.recorded import recorded

        plan, client = plan_of(view), connect(settings())
        with TemporaryDirectory(prefix="rebuild-") as folder:
            rows = recorded(output_of(plan), settings(), Path(folder)).tables
            if isinstance(plan.view.window, Rolling):
                found = rebuild_events(plan.view, rows, RollingStore(client, plan.view), clock=SystemClock())
            else:
                writer = PackedWriter(RedisPackedValues(client), layout_of(plan.view))
                found = rebuild_windows(plan.view, rows, writer, clock=SystemClock())
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
        from features.selection import Readable
        from features.training import FeatureRows, write_training_set
        from jobs.batch.recorded import recorded
        from pipelines.load import load_plans, load_services

        if (service is None) == (not feature):
            raise InvalidInput("features or a service", mend="give --feature, once or more, or --service")
        plans = {plan.view.name: plan for plan in load_plans().values()}
        readable = Readable([plan.view for plan in plans.values()], load_services())
        selection = readable.service(service) if service is not None else readable.features(feature or [])
        with TemporaryDirectory(prefix="training-set-") as folder:
            sources = []
            for view, _ in selection:
                found = recorded(output_of(plans[view.name]), settings(), Path(folder)).tables
                if not found:
                    raise InvalidInput(
                        f"nothing is recorded of {view.name}",
                        mend=f"run its pipeline, or `millstream features backfill {view.name}`",
                    )
                sources.append(FeatureRows(view, found[0]))
            rows = write_training_set(
                str(entities),
                [f"{view.name}.{name}" for view, names in selection for name in names],
                sources,
                to=to,
                time=time,
                times=times,
            )
        show_one({"rows": rows, "file": str(to)}, output)


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
