"""What can be wrong with a configuration of a forecasting, each with its place."""

from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches

from features.derived import MovingAverage
from features.view import Derived, FeatureView
from features.windows import Rolling
from pipelines.plan import ForecastPlan, Plan
from pipelines.training.configuration import Configuration, Forecast

EXAMPLE_COLUMNS = ("series", "horizon", "lead", "steps", "weekday", "hour", "target", "naive")
"""The columns of an example besides the view's features."""


def forecast_problems(
    found: Configuration, forecast: Forecast, plan: Plan, views: Mapping[str, FeatureView]
) -> dict[str, str]:
    """Reasons by JSON pointer; empty where all is well."""
    problems: dict[str, str] = {}
    if not found.evaluation.origins:
        problems["/evaluation/origins"] = "a forecast is judged at one origin at least"
    if len(found.views) != 1:
        problems["/views"] = f"must name one view, here are {len(found.views)}"
        return problems
    view = views.get(found.views[0])
    if view is None:
        close = get_close_matches(found.views[0], views, n=1, cutoff=0.5)
        problems["/views/0"] = f"unknown view {found.views[0]!r}" + (
            f"; did you mean {close[0]!r}?" if close else ""
        )
        return problems
    if view.source != plan.view.source or isinstance(view.window, Rolling) or len(view.entity_fields) != 1:
        problems["/views/0"] = f"no windowed view of one entity field over the events of {plan.pipeline}"
        return problems
    step = view.window.every
    if timedelta(days=1) % step or view.window.size != step:
        problems["/views/0"] = f"windows of {view.window.size} each {step}: must tumble, and fill a day"
    counted = found.target.column
    if counted not in view.feature_names or isinstance(view.feature(counted).definition, Derived):
        problems["/target/column"] = f"no aggregate of {view.name}"
    scales = [one.name for one in view.features if isinstance(one.definition, MovingAverage)]
    if forecast.scale not in scales:
        problems["/forecast/scale"] = (
            f"no moving average of {view.name}: {', '.join(scales) or 'it has none'}"
        )
    _check_horizons(forecast, timedelta(days=forecast.window_days) // step, problems)
    return _unserved(found, forecast, plan) | problems


def _unserved(found: Configuration, forecast: Forecast, plan: Plan) -> dict[str, str]:
    """Why the pipeline could not serve the model."""
    if not isinstance(plan, ForecastPlan):
        return {"/pipeline": f"pipeline {plan.pipeline} forecasts nothing"}
    problems = {}
    for place, given, wanted in (
        ("/views/0", found.views[0], plan.view.name),
        ("/target/column", found.target.column, plan.counted),
        ("/forecast/scale", forecast.scale, plan.scale),
    ):
        if given != wanted:
            problems[place] = f"pipeline {plan.pipeline} forecasts by {wanted}"
    learned = {one.asked for one in forecast.horizons}
    for horizon in plan.horizons:
        if horizon not in learned:
            problems["/forecast/horizons"] = f"lack {horizon}, which pipeline {plan.pipeline} forecasts"
    return problems


def _check_horizons(forecast: Forecast, window: int, problems: dict[str, str]) -> None:
    names = [one.name for one in forecast.horizons]
    if not any(one.gate for one in forecast.horizons):
        problems["/forecast/horizons"] = "the gate must be about one at least"
    if len(set(names)) != len(names):
        problems["/forecast/horizons"] = "names one twice"
    for number, one in enumerate(forecast.horizons):
        if one.lead + one.steps > window:
            problems[f"/forecast/horizons/{number}"] = (
                f"ends {one.lead + one.steps} windows after its origin, {window} are judged after one"
            )
