"""The stage that says whether the model goes on: good enough, not worse than the champion beyond noise."""

from datetime import datetime
from typing import Any

import numpy as np

from core.errors import MillstreamError
from jobs.training.classification.evaluate import SCORES
from jobs.training.classification.prepare import parts_of
from jobs.training.workspace import Labels, Workspace
from models.encode import Matrix
from models.evaluation import Scores, quality, resampled
from models.load import load
from models.store import CHAMPION, StoredModel
from pipelines.training.configuration import Gate

MEASURES = ("auc", "average_precision")


def gate(space: Workspace) -> dict[str, Any]:
    """Says why the model does not go on under `below`, and what the champion reached on the same rows.

    A champion that has learned from rows as late as the test's first is not compared with: it knows answers
    that the candidate has never seen. One whose inputs are not in the rows cannot be; both is said.
    """
    parts, given = parts_of(space), space.configuration
    labels = space.labels[parts.test]
    scores: Scores = np.load(space.data / SCORES)
    reasons = below_floor(labels, scores, given.gate)
    found: dict[str, Any] = {"champion": None}
    champion = _champion(space)
    if champion is not None:
        found["champion"] = champion.version
        reference, why = _scores_of(champion, space)
        if reference is None:
            found["not_compared"] = why
        else:
            compared = compare(
                labels,
                reference,
                scores,
                draws=given.evaluation.bootstrap,
                confidence=given.evaluation.confidence,
                seed=given.seed,
            )
            found["compared"] = compared
            reasons += worse(compared)
    if reasons:
        found["below"] = "; ".join(reasons)
    return found


def below_floor(labels: Labels, scores: Scores, given: Gate) -> list[str]:
    """What is below the configured least values."""
    reached = quality(labels, scores)
    return [
        f"{name} {getattr(reached, name):.4f} is below {getattr(given, name):.4f}"
        for name in MEASURES
        if getattr(reached, name) < getattr(given, name)
    ]


def compare(
    labels: Labels, champion: Scores, candidate: Scores, *, draws: int, confidence: float, seed: int
) -> dict[str, dict[str, float]]:
    """Both models on the same rows: values, and the candidate's difference with its interval, from the same
    bootstrap samples for both."""
    before, after = quality(labels, champion), quality(labels, candidate)
    one = resampled(labels, champion, draws=draws, seed=seed)
    other = resampled(labels, candidate, draws=draws, seed=seed)
    outside = (1.0 - confidence) / 2
    found = {}
    for name in MEASURES:
        differences = getattr(other, name) - getattr(one, name)
        low, high = np.nanquantile(differences, [outside, 1.0 - outside])
        values = (getattr(before, name), getattr(after, name))
        found[name] = {
            "champion": values[0],
            "candidate": values[1],
            "difference": values[1] - values[0],
            "low": float(low),
            "high": float(high),
        }
    return found


def worse(compared: dict[str, dict[str, float]]) -> list[str]:
    """Where the candidate is worse beyond noise: all of the interval of the difference lies below 0."""
    return [
        f"{name} is worse than the champion's: {one['candidate']:.4f} against {one['champion']:.4f}, "
        f"difference {one['low']:+.4f} to {one['high']:+.4f}"
        for name, one in compared.items()
        if one["high"] < 0.0
    ]


def _champion(space: Workspace) -> StoredModel | None:
    name = space.configuration.name
    if CHAMPION not in space.around.store.aliases(name):
        return None
    return space.around.store.resolve(name, CHAMPION)


def _scores_of(champion: StoredModel, space: Workspace) -> tuple[Matrix | None, str]:
    rows = space.rows.slice(parts_of(space).test_start)
    first: datetime = rows.column(space.time)[0].as_py()
    learned = champion.manifest.description.trained_on
    if learned is None:
        return None, "the champion does not say which rows it has learned from"
    last = learned.last_at
    if last >= first:
        return (
            None,
            f"the champion has learned from rows up to {last:%F %T}, the test begins at {first:%F %T}",
        )
    try:
        model = load(champion, threads=space.around.processes)
        batch = rows.combine_chunks().to_batches()[0]
        return model.score(model.encode(batch)), ""
    except MillstreamError as error:
        return None, f"the champion cannot score these rows: {error.what}"
