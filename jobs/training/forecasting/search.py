"""The stage that looks for settings: seeded trials over folds before the test, in processes."""

from datetime import timedelta
from typing import Any

import msgspec

from jobs.training.classification.search import best_of, report_trials
from jobs.training.forecasting.extract import forecast_of
from jobs.training.forecasting.fitting import Task, judge
from jobs.training.forecasting.prepare import prepared_of, scale_of
from jobs.training.forecasting.windows import usable, windows
from jobs.training.processes import judges
from jobs.training.trials import TRIALS, Trials, text_of
from jobs.training.workspace import Workspace


def search(space: Workspace) -> dict[str, Any]:
    """Leaves the trials; says the best settings of each engine, the best first. It resumes in the middle, and
    then gives what an unbroken search gives. Nothing of the test is looked at."""
    given, forecast = space.configuration.search, forecast_of(space)
    if not given.trials:
        return {"trials": 0, "best": []}
    found = prepared_of(space)
    folds = windows(
        found.known,
        length=timedelta(days=forecast.window_days),
        count=given.folds,
        later=space.configuration.evaluation.origins,
    )
    measured = found.gated & (found.targets > 0)  # the others have no MAPE
    folds = usable(folds, found.origins, found.known, measured, what="search")
    trials = Trials(space.data, space.configuration)
    report_trials(space, trials)
    with judges(min(given.parallel, space.around.processes)) as pool:
        for asked in trials.rounds():
            thresholds = trials.thresholds(trials.round_of(asked[0]))
            tasks = [
                Task(
                    folder=space.data,
                    scale=scale_of(space.signature, forecast),
                    windows=tuple(folds),
                    settings=trial.settings,
                    seed=space.configuration.seed,
                    thresholds=thresholds,
                )
                for trial in asked
            ]
            trials.tell(list(zip(asked, pool.each(judge, tasks), strict=True)))
            report_trials(space, trials)
    tried = trials.all()
    space.folder.write(TRIALS, text_of(tried))
    return {
        "trials": len(tried),
        "pruned": sum(trial.value is None for trial in tried),
        "folds": len(folds),
        "metric": given.metric,
        "best": [
            {"value": trial.value, "settings": msgspec.to_builtins(trial.settings)}
            for trial in best_of(tried)
        ],
    }
