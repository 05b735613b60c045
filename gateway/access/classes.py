"""Which class the data of a request has: that of the topic that its route is about."""

from collections.abc import Callable, Mapping

from gateway.routing import Route
from pipelines.plan import Plan
from schemas.classes import class_of

ClassOf = Callable[[Route, Mapping[str, str]], str | None]


def classes(plans: Mapping[str, Plan]) -> ClassOf:
    """By the pipeline or view that a path names, or by the pipeline whose own path it is; None of others."""
    of_pipelines = {
        name: class_of(plan.source.record, plan.source.data_class) for name, plan in plans.items()
    }
    of_views = {plan.view.name: of_pipelines[name] for name, plan in plans.items()}
    of_paths = {plan.route: of_pipelines[name] for name, plan in plans.items() if plan.route is not None}

    def of(route: Route, parameters: Mapping[str, str]) -> str | None:
        pipeline, view = parameters.get("pipeline"), parameters.get("view")
        if pipeline is not None:
            return of_pipelines.get(pipeline)
        return of_views.get(view) if view is not None else of_paths.get(route.template)

    return of
