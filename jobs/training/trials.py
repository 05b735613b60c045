"""The trials of a search, in Optuna's storage: asked for in rounds, judged, and the same after a kill.

What a trial tries depends on the seed, its place in the order and the trials of earlier rounds, never on
which of two finished first: a round is told only when it is known whole, and each trial has a sampler seeded
with its place. So a search that was killed anywhere and resumed gives what an unbroken one gives.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipelines.training.configuration import Configuration, Trees

STUDY = "study.sqlite"
TRIALS = "trials.json"
"""The file that a search leaves them in."""
_ENGINE = "engine"
_INTEGERS = ("trees", "depth")
_LEAST_TO_PRUNE = 4
"""Complete trials before any is cut short."""


@dataclass(frozen=True)
class Judged:
    """A trial's mean over the folds so far, after each of them; cut short where it lagged behind."""

    means: tuple[float, ...]
    pruned: bool


@dataclass(frozen=True)
class Trial:
    """One setting that is tried. `place` counts from 0, whatever was killed; `number` is the study's.
    `judged` is None before it is."""

    place: int
    number: int
    settings: Trees
    judged: Judged | None

    @property
    def value(self) -> float | None:
        """What it is ranked by: None when it was cut short."""
        return None if self.judged is None or self.judged.pruned else self.judged.means[-1]


def text_of(trials: Sequence[Trial]) -> bytes:
    """Trials as JSON, the same for a search that was killed and resumed as for an unbroken one."""
    told = [{"place": one.place, "settings": one.settings, "judged": one.judged} for one in trials]
    return msgspec.json.format(msgspec.json.encode(told), indent=1)


class Trials:
    """The trials of one run. One process at a time."""

    def __init__(self, folder: Path, configuration: Configuration) -> None:
        import optuna  # a second that a run without a search does not need

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._configuration, self._search = configuration, configuration.search
        self._study = optuna.create_study(
            study_name="search",
            storage=f"sqlite:///{folder / STUDY}",
            direction="maximize",
            pruner=optuna.pruners.NopPruner(),  # `thresholds` decides, out of whole rounds only
            load_if_exists=True,
        )
        self._fail_half_asked()

    def rounds(self) -> Iterator[list[Trial]]:
        """The rounds that are left, each with the trials that are not judged yet."""
        size = self._search.parallel
        for start in range(0, self._search.trials, size):
            there = self.all()
            places = range(start, min(start + size, self._search.trials))
            trials = [there[at] if at < len(there) else self._ask(at) for at in places]
            left = [trial for trial in trials if trial.judged is None]
            if left:
                yield left

    def thresholds(self, before: int) -> tuple[float, ...]:
        """Per fold the median of what trials before that place, judged to the end, had reached there; a trial
        that is below is cut short. Empty while too few are."""
        whole = [
            trial.judged.means
            for trial in self.all()
            if trial.place < before and trial.judged is not None and not trial.judged.pruned
        ]
        if len(whole) < _LEAST_TO_PRUNE:
            return ()
        return tuple(float(np.median(reached)) for reached in zip(*whole, strict=True))

    def round_of(self, trial: Trial) -> int:
        """The place of the first trial of its round."""
        return trial.place - trial.place % self._search.parallel

    def tell(self, judged: Sequence[tuple[Trial, Judged]]) -> None:
        """Note a round, in the order of its trials."""
        from optuna.trial import TrialState

        storage, there = (
            self._study._storage,
            {one.number: one for one in self._study.get_trials(deepcopy=False)},
        )
        for trial, found in sorted(judged, key=lambda one: one[0].place):
            known = there[trial.number]
            for step, mean in enumerate(found.means):
                storage.set_trial_intermediate_value(known._trial_id, step, mean)
            if found.pruned:
                self._study.tell(trial.number, state=TrialState.PRUNED)
            else:
                self._study.tell(trial.number, found.means[-1])

    def all(self) -> list[Trial]:
        """Every trial, in order; those that were only half asked for do not count."""
        from optuna.trial import TrialState

        kept = [one for one in self._study.get_trials(deepcopy=False) if one.state is not TrialState.FAIL]
        found = []
        for place, one in enumerate(kept):
            judged = None
            if one.state in (TrialState.COMPLETE, TrialState.PRUNED):
                means = tuple(one.intermediate_values[step] for step in sorted(one.intermediate_values))
                judged = Judged(means, one.state is TrialState.PRUNED)
            found.append(Trial(place, one.number, self._settings(one.params), judged))
        return found

    def _ask(self, place: int) -> Trial:
        from optuna.samplers import TPESampler

        self._study.sampler = TPESampler(
            seed=self._configuration.seed + 7_919 * place,
            n_startup_trials=self._search.startup,
            constant_liar=True,
        )
        if place == 0:
            self._study.enqueue_trial(self._shipped())
        asked = self._study.ask(self._distributions())
        return Trial(place, asked.number, self._settings(asked.params), None)

    def _shipped(self) -> dict[str, Any]:
        """The configured settings, moved into the space: the first trial."""
        given: dict[str, Any] = {}
        if len(self._search.engines) > 1:
            own = self._configuration.trees.engine
            given[_ENGINE] = own if own in self._search.engines else self._search.engines[0]
        for name, span in self._search.space.items():
            value = min(max(getattr(self._configuration.trees, name), span.low), span.high)
            given[name] = int(value) if name in _INTEGERS else value
        return given

    def _distributions(self) -> dict[str, Any]:
        from optuna import distributions

        found: dict[str, Any] = {}
        if len(self._search.engines) > 1:
            found[_ENGINE] = distributions.CategoricalDistribution(self._search.engines)
        for name, span in self._search.space.items():
            if name in _INTEGERS:
                found[name] = distributions.IntDistribution(int(span.low), int(span.high), log=span.log)
            else:
                found[name] = distributions.FloatDistribution(span.low, span.high, log=span.log)
        return found

    def _settings(self, parameters: dict[str, Any]) -> Trees:
        given = {_ENGINE: self._search.engines[0]} | parameters
        return msgspec.structs.replace(self._configuration.trees, **given)

    def _fail_half_asked(self) -> None:
        """A kill while a trial was asked for leaves it without some of its settings, or not begun."""
        from optuna.trial import TrialState

        wanted = self._distributions().keys()
        for one in self._study.get_trials(deepcopy=False):
            if one.state is TrialState.WAITING:
                self._study._storage.set_trial_state_values(one._trial_id, TrialState.FAIL)
            elif one.state is TrialState.RUNNING and one.params.keys() != wanted:
                self._study.tell(one.number, state=TrialState.FAIL)
