"""The stage that says how good the model is: on the test rows, over rolling origins, without the views."""

from datetime import timedelta
from typing import Any

import msgspec
import numpy as np

from core.errors import InvalidInput
from jobs.training.boosting import Sample, load_grown
from jobs.training.classification.fit import GROWN, settings_of
from jobs.training.classification.prepare import parts_of, times_of
from jobs.training.fold_scores import both_classes
from jobs.training.splitting import rolling_origins
from jobs.training.workspace import Workspace
from models.evaluation import interval, quality, resampled

SCORES = "scores.npy"
REPORT = "evaluation.json"


def evaluate(space: Workspace) -> dict[str, Any]:
    """Leaves the scores of the test rows and the report. Raises InvalidInput when the test has one class."""
    given, parts, settings = space.configuration, parts_of(space), settings_of(space)
    wanted, seed = given.evaluation, given.seed
    labels = space.labels[parts.test]
    test = np.ascontiguousarray(space.matrix[parts.test])
    scores = load_grown(settings.engine, space.data / GROWN).score(test)
    space.keep_array(SCORES, scores)
    found = quality(labels, scores)
    draws = resampled(labels, scores, draws=wanted.bootstrap, seed=seed)
    auc = interval(found.auc, draws.auc, confidence=wanted.confidence)
    precision = interval(found.average_precision, draws.average_precision, confidence=wanted.confidence)
    space.measured(auc=found.auc, average_precision=found.average_precision)
    report = {
        "rows": found.rows,
        "positives": found.positives,
        "confidence": wanted.confidence,
        "auc": msgspec.to_builtins(auc),
        "average_precision": msgspec.to_builtins(precision),
        "backtest": _backtest(space) if wanted.origins else [],
    }
    if wanted.without_views:
        report["without_views"] = _without_views(space, test)
        space.measured(
            auc_without_view=report["without_views"]["auc"],
            average_precision_without_view=report["without_views"]["average_precision"],
        )
    space.folder.write(REPORT, msgspec.json.format(msgspec.json.encode(report), indent=1))
    return report


def _backtest(space: Workspace) -> list[dict[str, Any]]:
    """The same settings, learned from what was known at each of several earlier times."""
    given, parts, settings = space.configuration, parts_of(space), settings_of(space)
    times, gap = times_of(space), timedelta(days=given.split.gap_days)
    folds = rolling_origins(times, parts.learned_end, count=given.evaluation.origins, gap=gap)
    found = []
    for number, fold in enumerate(both_classes(space.labels, folds), 1):
        sample = Sample(
            space.matrix[: fold.train_end], space.labels[: fold.train_end], threads=space.around.processes
        )
        what = f"backtest {number}"
        model = sample.fit(settings, seed=given.seed, progress=space.progress, what=what)
        window = slice(fold.test_start, fold.test_end)
        one = quality(space.labels[window], model.score(np.ascontiguousarray(space.matrix[window])))
        found.append(
            {"trained_rows": fold.train_end, "until": int(times[fold.train_end - 1])}
            | msgspec.to_builtins(one)
        )
    if not found:
        raise InvalidInput("no origin has both classes", where="backtest", mend="take more history")
    return found


def _without_views(space: Workspace, test: Any) -> dict[str, float]:
    names = set(space.features)
    without = [at for at, item in enumerate(space.signature.inputs) if item.name not in names]
    if not without:
        raise InvalidInput(
            "the model looks at nothing but the views", where="evaluation", mend="set without_views = false"
        )
    parts = parts_of(space)
    sample = Sample(
        np.ascontiguousarray(space.matrix[parts.learned][:, without]),
        space.labels[parts.learned],
        threads=space.around.processes,
    )
    model = sample.fit(
        settings_of(space),
        seed=space.configuration.seed,
        progress=space.progress,
        what="train without the view",
    )
    found = quality(space.labels[parts.test], model.score(np.ascontiguousarray(test[:, without])))
    return {"auc": found.auc, "average_precision": found.average_precision}
