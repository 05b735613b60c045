"""The stages of a forecasting, in order."""

from jobs.training.forecasting.backtest import backtest
from jobs.training.forecasting.extract import extract
from jobs.training.forecasting.gate import gate
from jobs.training.forecasting.prepare import prepare
from jobs.training.forecasting.publish import export, fit, register
from jobs.training.forecasting.search import search
from jobs.training.forecasting.validate import validate
from jobs.training.plan import PlannedStage
from jobs.training.staging import deploy, experiment

FORECASTING = (
    PlannedStage("extract", extract),
    PlannedStage("validate", validate),
    PlannedStage("prepare", prepare),
    PlannedStage("search", search),
    PlannedStage("evaluate", backtest),
    PlannedStage("gate", gate),
    PlannedStage("fit", fit, if_passed=True),
    PlannedStage("export", export, if_passed=True),
    PlannedStage("register", register, if_passed=True),
    PlannedStage("deploy", deploy, if_passed=True),
    PlannedStage("experiment", experiment, if_passed=True),
)
