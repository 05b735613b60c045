"""What the demo streams and scores with: the data, cut by time, and a model that has not seen it."""

from dataclasses import dataclass

from core.settings import settings
from jobs.sources.progress import Progress
from jobs.sources.slices import Slices, cut
from jobs.training.fraud import EVENTS, recorded, reusable, streaming, train_fraud
from models.load import LoadedModel, load
from models.registry import open_registry


@dataclass(frozen=True)
class Material:
    """The rows to stream, none of which the model has seen, and the model. `metrics` are the training's."""

    slices: Slices
    model: LoadedModel
    metrics: dict[str, float]
    data: str
    licence: str


def gather(*, events: int, generated: bool, progress: Progress) -> Material:
    """Load the data; reuse the champion where it may score it, train one where not."""
    unseen = max(events, EVENTS)
    table, source = recorded(from_generator=generated, events=unseen, progress=progress)
    slices = cut(table, events=events)
    store = open_registry(settings())
    stored = reusable(source, slices, store=store)
    if stored is None:
        train_fraud(table, source=source, configuration=streaming(unseen), store=store, progress=progress)
        stored = store.resolve("fraud")
    return Material(
        slices=slices,
        model=load(stored),
        metrics=dict(stored.manifest.description.metrics),
        data=source.name,
        licence=source.licence,
    )
