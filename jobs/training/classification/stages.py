"""The stages of a classification, in order."""

from jobs.training.classification.evaluate import evaluate
from jobs.training.classification.fit import fit
from jobs.training.classification.gate import gate
from jobs.training.classification.prepare import prepare
from jobs.training.classification.publish import export, register
from jobs.training.classification.search import search
from jobs.training.extract import extract
from jobs.training.plan import PlannedStage
from jobs.training.staging import deploy, experiment
from jobs.training.validate import validate

CLASSIFICATION = (
    PlannedStage("extract", extract),
    PlannedStage("validate", validate),
    PlannedStage("prepare", prepare),
    PlannedStage("search", search),
    PlannedStage("fit", fit),
    PlannedStage("evaluate", evaluate),
    PlannedStage("gate", gate),
    PlannedStage("export", export, if_passed=True),
    PlannedStage("register", register, if_passed=True),
    PlannedStage("deploy", deploy, if_passed=True),
    PlannedStage("experiment", experiment, if_passed=True),
)
