"""The stage that looks for settings: seeded trials over folds with a rolling origin, in processes."""

from datetime import timedelta
from typing import Any

import msgspec

from core.errors import InvalidInput
from jobs.training.classification.prepare import parts_of, times_of
from jobs.training.fold_scores import Task, both_classes
from jobs.training.processes import judges
from jobs.training.splitting import rolling_origins
from jobs.training.trials import TRIALS, Trial, Trials, text_of
from jobs.training.workspace import Workspace


def search(space: Workspace) -> dict[str, Any]:
    """Leaves the trials; says the best settings of each engine, the best first. It resumes in the middle, and
    then gives what an unbroken search gives. Without trials nothing is searched."""
    given, parts = space.configuration.search, parts_of(space)
    if not given.trials:
        return {"trials": 0, "best": []}
    gap = timedelta(days=space.configuration.split.gap_days)
    folds = rolling_origins(times_of(space), parts.train_end, count=given.folds, gap=gap)
    usable = both_classes(space.labels, folds)
    if not usable:
        raise InvalidInput(
            "no fold has both classes", where="search", mend="take more history or fewer folds"
        )
    trials = Trials(space.data, space.configuration)
    report_trials(space, trials)
    with judges(min(given.parallel, space.around.processes)) as pool:
        for asked in trials.rounds():
            thresholds = trials.thresholds(trials.round_of(asked[0]))
            tasks = [
                Task(
                    folder=space.data,
                    folds=tuple(usable),
                    rows=given.rows,
                    metric=given.metric,
                    settings=trial.settings,
                    seed=space.configuration.seed,
                    thresholds=thresholds,
                )
                for trial in asked
            ]
            trials.tell(list(zip(asked, pool.judge(tasks), strict=True)))
            report_trials(space, trials)
    found = trials.all()
    space.folder.write(TRIALS, text_of(found))
    best = best_of(found)
    return {
        "trials": len(found),
        "pruned": sum(trial.value is None for trial in found),
        "folds": len(usable),
        "metric": given.metric,
        "best": [{"value": trial.value, "settings": msgspec.to_builtins(trial.settings)} for trial in best],
    }


def best_of(found: list[Trial]) -> list[Trial]:
    """The best trial of each engine, the best engine first; of equals the earlier one."""
    ranked = sorted(
        (trial for trial in found if trial.value is not None),
        key=lambda trial: (-(trial.value or 0.0), trial.place),
    )
    firsts: dict[str, Trial] = {}
    for trial in ranked:
        firsts.setdefault(trial.settings.engine, trial)
    return list(firsts.values())


def report_trials(space: Workspace, trials: Trials) -> None:
    """How far the search is, and its best value so far."""
    judged = [trial for trial in trials.all() if trial.judged is not None]
    wanted = space.configuration.search.trials
    space.record(trials_done=len(judged))
    values = [trial.value for trial in judged if trial.value is not None]
    space.progress("search", len(judged) / wanted)
    if values:
        space.measured(best_trial=abs(max(values)))  # an error is searched as its negative
