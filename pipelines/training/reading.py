"""Reading a training configuration: every key known, every range with something in it, before any work.

What is wrong is told at once, each with its place as a JSON pointer; an unknown key with the nearest one.
"""

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from core.errors import InvalidInput, MillstreamError, Rejected, UnknownName
from features.view import FeatureView
from features.windows import Rolling
from pipelines.load import load_plans
from pipelines.plan import Plan, ScoringPlan
from pipelines.training.configuration import Configuration, Expectation, Section, Trees
from pipelines.training.cron import Cron
from pipelines.training.forecast_checks import EXAMPLE_COLUMNS, forecast_problems

SHIPPED = "pipelines.training.catalog"
MAX_BYTES = 64 * 1024
_SEARCHED = tuple(name for name in Trees.__struct_fields__ if name != "engine")
_INTEGERS = ("trees", "depth")
_AT = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)
_STEPS = re.compile(r"[^.$\[\]]+|\.\.\.")
_MOST = 20


def shipped_names() -> list[str]:
    """The models that have a configuration of their own in the framework."""
    files = resources.files(SHIPPED).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def shipped(name: str) -> Configuration:
    """The configuration that comes with the framework. Raises UnknownName."""
    return parse(shipped_values(name), where=f"shipped configuration {name}")


def configurations(folder: Path | None) -> dict[str, Configuration]:
    """Every model's configuration: the shipped ones, and those in the TOML files of `folder` in their place.
    Raises InvalidInput, Rejected."""
    found = {name: shipped(name) for name in shipped_names()}
    for path in sorted(folder.glob("*.toml")) if folder is not None else ():
        one = read(path)
        found[one.name] = one
    return found


def shipped_values(name: str) -> dict[str, Any]:
    """The same as plain values, to be changed before it is read."""
    if name not in shipped_names():
        raise UnknownName("training", name, shipped_names())
    return tomllib.loads((resources.files(SHIPPED) / f"{name}.toml").read_text("utf-8"))


def read(path: Path) -> Configuration:
    """The configuration in a TOML file. Raises InvalidInput, Rejected with every wrong place."""
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise InvalidInput(f"{len(data)} bytes", where=str(path), mend=f"at most {MAX_BYTES}")
        values = tomllib.loads(data.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(
            f"the configuration cannot be read: {error}", where=str(path), mend="give a TOML file"
        ) from error
    return parse(values, where=str(path))


def parse(values: Mapping[str, Any], *, where: str) -> Configuration:
    """Checked values. Raises Rejected with every wrong place."""
    problems: dict[str, str] = {}
    _unknown_keys(values, Configuration, "", problems)
    if not problems:
        try:
            found = msgspec.convert(values, Configuration)
            problems = _contradictions(found)
        except msgspec.ValidationError as error:
            problems = _told(error)
    if problems:
        raise Rejected(
            "; ".join(f"{place or '/'}: {reason}" for place, reason in list(problems.items())[:_MOST]),
            fields=problems,
            where=where,
            mend="correct the configuration; nothing was begun",
            code="invalid_training",
        )
    return found


def values_of(configuration: Configuration) -> dict[str, Any]:
    """A configuration as plain values, as `parse` takes them."""
    found = msgspec.to_builtins(configuration)
    return {name: value for name, value in found.items() if value is not None or name == "schedule"}


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes` in their place, table by table."""
    merged = dict(values)
    for name, value in changes.items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[name] = changed(below, value) if both else value  # type: ignore[arg-type]
    return merged


def plan_of(configuration: Configuration) -> Plan:
    """The plan of the pipeline whose events are learned from. Raises UnknownName."""
    plans = load_plans()
    if configuration.pipeline not in plans:
        raise UnknownName("pipeline", configuration.pipeline, plans)
    return plans[configuration.pipeline]


def serving_plan(configuration: Configuration) -> ScoringPlan:
    """The plan of the pipeline that serves the model. Raises UnknownName, InvalidInput."""
    plan = plan_of(configuration)
    if not isinstance(plan, ScoringPlan):
        raise InvalidInput(f"pipeline {plan.pipeline} scores nothing", mend="name a pipeline with a model")
    return plan


def known_views() -> dict[str, FeatureView]:
    """The views that a training can name: those of the pipelines."""
    return {plan.view.name: plan.view for plan in load_plans().values()}


def _unknown_keys(
    values: Mapping[str, Any], section: type[Section], at: str, problems: dict[str, str]
) -> None:
    hints = get_type_hints(section)
    for name, value in values.items():
        place = f"{at}/{name}"[:200]
        if name not in hints:
            close = get_close_matches(str(name), hints, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(hints)}"
            problems[place] = f"unknown key; {hint}"
            continue
        kind, item = hints[name], (get_args(hints[name]) or (None,))[-1]
        if isinstance(kind, type) and issubclass(kind, Section) and isinstance(value, Mapping):
            _unknown_keys(value, kind, place, problems)
        elif get_origin(kind) is dict and isinstance(value, Mapping) and isinstance(item, type):
            for key, below in value.items():
                if isinstance(below, Mapping):
                    _unknown_keys(below, item, f"{place}/{key}", problems)
        elif get_origin(kind) is tuple and isinstance(value, list):
            inner = get_args(kind)[0]
            if isinstance(inner, type) and issubclass(inner, Section):
                for number, below in enumerate(value):
                    if isinstance(below, Mapping):
                        _unknown_keys(below, inner, f"{place}/{number}", problems)


def _told(error: msgspec.ValidationError) -> dict[str, str]:
    """msgspec's message as place and reason: `$.search.trials` is /search/trials."""
    found = _AT.match(str(error))
    path = (found["path"] if found else None) or "$"
    place = "".join(f"/{name}" for name in _STEPS.findall(path))
    return {place: found["reason"] if found else str(error)}


def _contradictions(found: Configuration) -> dict[str, str]:
    problems: dict[str, str] = {}
    forecasting = found.task == "forecasting"
    classes = found.target.classes
    if forecasting and classes:
        problems["/target/classes"] = "a quantity has no classes"
    elif not forecasting and (len(classes) != 2 or len(set(classes)) != 2):
        problems["/target/classes"] = f"must be two different classes, here are {len(set(classes))}"
    if forecasting != (found.search.metric == "mape"):
        problems["/search/metric"] = f"{found.search.metric} is no metric of {found.task}"
    if forecasting != (found.forecast is not None):
        problems["/forecast"] = "belongs to task forecasting, and only to that"
    if not found.search.engines:
        problems["/search/engines"] = "must name at least one"
    if len(set(found.search.engines)) != len(found.search.engines):
        problems["/search/engines"] = "names one twice"
    _check_space(found, problems)
    if found.schedule is not None:
        try:
            Cron.parse(found.schedule)
        except InvalidInput as error:
            problems["/schedule"] = f"{error.what}; {error.mend}"
    webhook = found.notifications.webhook
    if webhook is not None:
        parts = urlsplit(webhook)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            problems["/notifications/webhook"] = "must be an http or https address without credentials"
    try:
        plan = plan_of(found) if forecasting else serving_plan(found)
    except MillstreamError as error:
        problems["/pipeline"] = f"{error.what}; {error.mend}"
        return problems
    if found.forecast is not None:
        problems |= forecast_problems(found, found.forecast, plan, known_views())
        columns = {*EXAMPLE_COLUMNS, *(name for view in found.views for name in _features(view))}
    else:
        _check_views(found, plan, problems)
        columns = {*plan.view.source.spec().names, *plan.view.feature_names, found.target.column}
    for number, expectation in enumerate(found.expectations):
        _check_expectation(expectation, columns, f"/expectations/{number}", problems)
    return problems


def _features(view: str) -> tuple[str, ...]:
    found = known_views().get(view)
    return () if found is None else found.feature_names


def _check_space(found: Configuration, problems: dict[str, str]) -> None:
    for name, span in found.search.space.items():
        place = f"/search/space/{name}"
        if name not in _SEARCHED:
            close = get_close_matches(name, _SEARCHED, n=1, cutoff=0.5)
            problems[place] = "unknown setting; " + (
                f"did you mean {close[0]!r}?" if close else f"known: {', '.join(_SEARCHED)}"
            )
            continue
        if not span.low < span.high:
            problems[place] = f"empty range: from {span.low:g} to {span.high:g}"
        elif span.log and span.low <= 0:
            problems[place] = "a range over orders of magnitude begins above 0"
        elif name in _INTEGERS and not (span.low.is_integer() and span.high.is_integer()):
            problems[place] = "must be whole numbers"
        else:
            for bound in (span.low, span.high):
                value = int(bound) if name in _INTEGERS else bound
                try:
                    msgspec.convert({name: value}, Trees)
                except msgspec.ValidationError as error:
                    problems[place] = str(error).partition(" - at")[0]
    if found.search.trials and not found.search.space:
        problems["/search/space"] = "empty: there is nothing to search"


def _check_views(found: Configuration, plan: Plan, problems: dict[str, str]) -> None:
    known = {one.view.name: one.view for one in load_plans().values()}
    for number, name in enumerate(found.views):
        place = f"/views/{number}"
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.5)
            problems[place] = f"unknown view {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        elif known[name].source != plan.view.source or not isinstance(known[name].window, Rolling):
            problems[place] = f"no rolling view of the events of {plan.pipeline}"
        elif found.source.kind == "recorded" and name != plan.view.name:
            problems[place] = f"of {plan.pipeline} only {plan.view.name} is recorded"
    if len(set(found.views)) != len(found.views):
        problems["/views"] = "names one twice"


def _check_expectation(
    expectation: Expectation, columns: set[str], place: str, problems: dict[str, str]
) -> None:
    if expectation.column not in columns:
        close = get_close_matches(expectation.column, columns, n=1, cutoff=0.5)
        problems[f"{place}/column"] = "unknown column" + (f"; did you mean {close[0]!r}?" if close else "")
    low, high = expectation.low, expectation.high
    if expectation.kind == "between":
        if low is None and high is None:
            problems[place] = "give `low`, `high` or both"
        elif low is not None and high is not None and low > high:
            problems[place] = f"empty range: from {low:g} to {high:g}"
    elif expectation.kind == "one_of" and not expectation.values:
        problems[f"{place}/values"] = "must name at least one"
    elif expectation.kind == "matches":
        try:
            re.compile(expectation.pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            problems[f"{place}/pattern"] = f"no regular expression: {error}"
        if not expectation.pattern:
            problems[f"{place}/pattern"] = "must not be empty"
