"""The configuration of a training: source, history, target, views, split, search, gate, schedule, notices.

Written as TOML; `pipelines.training.reading` reads and checks it. Times are event times, shares are 0 to 1.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from core.structs import ready
from operators import forecast

Engine = Literal["xgboost", "lightgbm"]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
ENGINES: tuple[Engine, ...] = ("xgboost", "lightgbm")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a configuration."""


class Source(Section, frozen=True):
    """Where the rows come from.

    download: the public data set of the model, loaded once at run time. generated: made by this program,
    `rows` of them. recorded: the events topic of the pipeline, its offline table included, with the verdicts
    of its labels topic, joined with the features that could be read at each event's time; events without a
    verdict are dropped, or count as the first class with `unlabelled = "negative"`.
    """

    kind: Literal["download", "generated", "recorded"] = "download"
    rows: Annotated[int, Meta(ge=100, le=5_000_000)] = 150_000
    unlabelled: Literal["drop", "negative"] = "drop"


class Target(Section, frozen=True):
    """What is learned. Classification: the column with the label, and the two classes, the positive one last;
    in recorded events the classes are the words of the verdicts. Forecasting: the feature that is counted per
    window, and no classes."""

    column: str
    classes: tuple[str, ...] = ()


class Split(Section, frozen=True):
    """By time: the last `test_rows` are the test; what is older than its first row by more than `gap_days` is
    learned from; the last `validation_share` of that, again behind a gap, judges what the search found."""

    test_rows: Annotated[int, Meta(ge=20, le=10_000_000)] = 40_000
    gap_days: Annotated[float, Meta(ge=0.0, le=3650.0)] = 7.0
    validation_share: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.15


@ready
class Trees(Section, frozen=True):
    """`trees` boosted trees of at most `depth` levels. Rows and inputs are sampled per tree."""

    engine: Engine = "xgboost"
    trees: Annotated[int, Meta(ge=1, le=5_000)] = 200
    depth: Annotated[int, Meta(ge=1, le=16)] = 8
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1
    row_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.8
    input_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5
    least_leaf_weight: Annotated[float, Meta(ge=0.0, le=1e6)] = 10.0


class Range(Section, frozen=True):
    """From `low` to `high`, both included; `log` searches evenly over orders of magnitude."""

    low: float
    high: float
    log: bool = False


class Search(Section, frozen=True):
    """Hyper-parameter search: `trials` settings from `space`, each judged over `folds` with rolling origin of
    at most `rows` training rows. `parallel` trials are asked for at once, whatever the processors: with an
    equal seed the result does not depend on the machine. 0 trials: the settings of `trees`, no search.
    `metric` is that of the task: `mape` in forecasting, where a fold learns from all rows before it."""

    trials: Annotated[int, Meta(ge=0, le=10_000)] = 20
    folds: Annotated[int, Meta(ge=1, le=20)] = 3
    rows: Annotated[int, Meta(ge=100, le=100_000_000)] = 200_000
    parallel: Annotated[int, Meta(ge=1, le=64)] = 2
    startup: Annotated[int, Meta(ge=1, le=1_000)] = 6
    metric: Literal["average_precision", "auc", "mape"] = "average_precision"
    engines: tuple[Engine, ...] = ENGINES
    space: dict[str, Range] = {}


class Evaluation(Section, frozen=True):
    """`origins` of the backtest. Classification: resamples of the bootstrap and its confidence; whether a
    second model without the views tells what they are worth."""

    origins: Annotated[int, Meta(ge=0, le=50)] = 3
    bootstrap: Annotated[int, Meta(ge=20, le=10_000)] = 200
    confidence: Annotated[float, Meta(ge=0.5, lt=1.0)] = 0.95
    without_views: bool = True


class Gate(Section, frozen=True):
    """What a candidate must reach on the test rows. Classification: at least `auc` and `average_precision`,
    besides not being worse than the champion. Forecasting: less than `mape`, besides being better than the
    seasonal naive forecast."""

    auc: Share = 0.6
    average_precision: Share = 0.0
    mape: Share = 0.15


class Horizon(Section, frozen=True):
    """A stretch of time that is forecast: `steps` windows of the view together, after `lead` windows that
    follow the origin. `gate`: whether the gate is about it; otherwise its errors are only told."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    steps: Annotated[int, Meta(ge=1, le=10_000)]
    lead: Annotated[int, Meta(ge=0, le=10_000)] = 0
    gate: bool = True

    @property
    def asked(self) -> forecast.Horizon:
        """As a model is asked for it."""
        return forecast.Horizon(self.name, self.steps, self.lead)


class Forecast(Section, frozen=True):
    """Forecasting: one model over all series of a view, a series being an entity.

    scale: a feature, the moving average that targets are learned in units of. season_days: after how long
    what happens repeats itself. total: the name of a further series, all entities together. window_days: what
    is judged after an origin of the backtest or of a fold. Prophet is judged beside the models: fitted anew
    every `prophet_days`, on the last `prophet_history_days` before.
    """

    scale: str
    horizons: tuple[Horizon, ...]
    season_days: Annotated[int, Meta(ge=1, le=366)] = 7
    total: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    window_days: Annotated[int, Meta(ge=1, le=366)] = 21
    prophet: bool = True
    prophet_days: Annotated[int, Meta(ge=1, le=366)] = 7
    prophet_history_days: Annotated[int, Meta(ge=14, le=3_650)] = 365


class Expectation(Section, frozen=True):
    """What the training data must fulfil, besides what its record and views declare. `share` of the values
    of `column` that are there must: be present, be within [low, high], be one of `values`, differ from each
    other, or match the regular expression `pattern`."""

    column: str
    kind: Literal["present", "between", "one_of", "unique", "matches"]
    low: float | None = None
    high: float | None = None
    values: tuple[str | int | float, ...] = ()
    pattern: str | None = None
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0


class Notifications(Section, frozen=True):
    """Who is told how a run ended: the log, an address that takes a signed POST, the Kafka topic."""

    log: bool = True
    webhook: str | None = None
    topic: bool = True


@ready
class Configuration(Section, frozen=True):
    """One training. `name` is the model's; `pipeline` the one that serves it; `views` by default that
    pipeline's view; `inputs` the most columns that the model may look at; `history_days` counts back from the
    newest row; `schedule` is a cron expression in UTC, without one it runs only when asked to. Forecasting
    has one windowed view, no `split`, and `forecast`."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    pipeline: str
    target: Target
    task: Literal["classification", "forecasting"] = "classification"
    views: tuple[str, ...] = ()
    inputs: Annotated[int, Meta(ge=1, le=10_000)] = 119
    history_days: Annotated[int, Meta(ge=1, le=36_500)] = 730
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 7
    schedule: str | None = "0 2 * * 0"
    source: Source = Source()
    split: Split = Split()
    trees: Trees = Trees()
    search: Search = Search()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    forecast: Forecast | None = None
    expectations: tuple[Expectation, ...] = ()
    notifications: Notifications = Notifications()

    def quick(self) -> "Configuration":
        """Without a search: the shipped settings; and without a backtest where there is another test."""
        origins = self.evaluation.origins if self.task == "forecasting" else 0
        return msgspec.structs.replace(
            self,
            search=msgspec.structs.replace(self.search, trials=0),
            evaluation=msgspec.structs.replace(self.evaluation, origins=origins),
        )
