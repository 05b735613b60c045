"""`features get`: the features of entities from the online store."""

from typing import Annotated, Any

import typer

from cli.features.views import Output, plan_of, show
from core.settings import settings


def register(group: typer.Typer) -> None:
    @group.command()
    def get(
        view: str,
        entity: Annotated[list[str], typer.Argument(help="composite ones as a|b, with % and | as %25, %7C")],
        tenant: Annotated[str, typer.Option(help="whose")],
        output: Output = "table",
    ) -> None:
        """The features of entities as of now, each with event time, age and status."""
        from features.online.client import connect
        from features.online.reading import FeatureReading
        from features.online.selection import Readable
        from schemas.keys import split_entity

        declared = plan_of(view).view
        fields = declared.entity_fields
        asked: list[Any] = [
            one if len(fields) == 1 else dict(zip(fields, split_entity(one, len(fields)), strict=True))
            for one in entity
        ]
        reading = FeatureReading.of(connect(settings()), Readable([declared]))
        reads = reading.read(tenant, ((declared, declared.feature_names),), asked)
        rows = [
            {
                "entity": name,
                "feature": label.partition(":")[2],
                "value": read.value,
                "event_time": read.event_time,
                "age_ms": read.age_ms,
                "status": str(read.status),
            }
            for name, found in zip(entity, reads.rows(), strict=True)
            for label, read in found.features.items()
        ]
        show(rows, output)
