"""The stage that says how good forecasts are: over rolling origins, each library beside Prophet and the
seasonal naive forecast, on the same examples."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from jobs.training.forecasting.examples import SERIES, every
from jobs.training.forecasting.extract import forecast_of, kept_series, view_of
from jobs.training.forecasting.fitting import Task, predict
from jobs.training.forecasting.prepare import Prepared, prepared_of, scale_of
from jobs.training.forecasting.prophet import ProphetTask, forecast
from jobs.training.forecasting.windows import JudgedWindow, usable, windows
from jobs.training.processes import Judges, judges
from jobs.training.workspace import Workspace
from models.forecasts import Values, accuracy, sums
from pipelines.training.configuration import Trees

FORECASTS, REPORT = "forecasts.npz", "evaluation.json"
NAIVE, PROPHET = "seasonal_naive", "prophet"
_MS = timedelta(milliseconds=1)


def backtest(space: Workspace) -> dict[str, Any]:
    """Leaves every forecast of the test, and the report. The search chose the engine, not the test."""
    found, given = prepared_of(space), forecast_of(space)
    test = usable(_test(space, found), found.origins, found.known, found.gated, what="backtest")
    rows = np.concatenate([one.judged(found.origins, found.known) for one in test])
    candidates = candidates_of(space)
    forecasts: dict[str, Values] = {}
    with judges(space.around.processes) as pool:
        tasks = [
            Task(space.data, scale_of(space.signature, given), (one,), settings, space.configuration.seed)
            for settings in candidates
            for one in test
        ]
        made: list[Values] = []
        for number, parts in enumerate(pool.each(predict, tasks), 1):
            made += parts
            space.progress("backtest", number / len(tasks))
        for number, settings in enumerate(candidates):
            own = made[number * len(test) : (number + 1) * len(test)]
            forecasts[settings.engine] = np.concatenate(own)
        if given.prophet:
            forecasts[PROPHET] = _prophet(space, found, test, pool)
    forecasts[NAIVE] = found.naive[rows]
    np.savez(space.data / FORECASTS, rows=rows, **forecasts)
    report = _report(space, found, test, rows, forecasts)
    space.folder.write(REPORT, msgspec.json.format(msgspec.json.encode(report), indent=1))
    return report


def candidates_of(space: Workspace) -> list[Trees]:
    """The settings to judge, one of each library, the chosen one first: the search's best, or the configured
    ones."""
    best = space.state.details("search")["best"]
    if best:
        return [msgspec.convert(one["settings"], Trees) for one in best]
    own = space.configuration.trees
    others = [engine for engine in space.configuration.search.engines if engine != own.engine]
    return [own, *(msgspec.structs.replace(own, engine=engine) for engine in others)]


def _test(space: Workspace, found: Prepared) -> list[JudgedWindow]:
    length = timedelta(days=forecast_of(space).window_days)
    return windows(found.known, length=length, count=space.configuration.evaluation.origins)


def _prophet(space: Workspace, found: Prepared, test: list[JudgedWindow], pool: Judges) -> Values:
    """Fitted anew at each origin of the backtest and every so many days after it."""
    given, series = forecast_of(space), kept_series(space)
    step = every(view_of(space)) // _MS
    apart = timedelta(days=given.prophet_days) // _MS
    longest = max(one.lead + one.steps for one in given.horizons)
    history = timedelta(days=given.prophet_history_days) // _MS // step
    tasks: list[ProphetTask] = []
    places: dict[tuple[str, int], int] = {}
    for at in sorted({at for one in test for at in range(one.until, one.end, apart)}):
        for one in series:
            known = (at - one.first_end) // step + 1
            values = one.values[max(known - history, one.begins) : known]
            places[one.name, at] = len(tasks)
            seed = space.configuration.seed
            tasks.append(ProphetTask(values, at, step, apart // step + longest, seed))
    made = []
    for number, one_forecast in enumerate(pool.each(forecast, tasks), 1):
        made.append(one_forecast)
        space.progress("prophet", number / len(tasks))
    names, steps, leads = (
        space.rows[SERIES].to_pylist(),
        space.rows["steps"].to_numpy(),
        space.rows["lead"].to_numpy(),
    )
    forecasts = []
    for window in test:
        for row in window.judged(found.origins, found.known).tolist():
            origin = int(found.origins[row])
            fitted_at = window.until + (origin - window.until) // apart * apart
            begin = (origin - fitted_at) // step + int(leads[row])
            ahead = made[places[names[row], fitted_at]]
            forecasts.append(float(sums(ahead, np.array([begin]), np.array([begin + int(steps[row])]))[0]))
    return np.array(forecasts)


def _report(
    space: Workspace,
    found: Prepared,
    test: list[JudgedWindow],
    rows: npt.NDArray[np.int64],
    forecasts: dict[str, Values],
) -> dict[str, Any]:
    given, gate = forecast_of(space), space.configuration.gate
    chosen = candidates_of(space)[0].engine
    actual = found.targets[rows]
    examples = space.rows.select([SERIES, "horizon"]).take(rows)
    series, horizon = (np.array(examples[name].to_pylist()) for name in (SERIES, "horizon"))
    overall: dict[str, dict[str, Any]] = {}
    single: list[dict[str, Any]] = []
    wins: list[str] = []
    for one in given.horizons:
        there = horizon == one.name
        overall[one.name] = {"gate": one.gate} | _accuracies(actual, forecasts, there)
        for name in sorted(set(series[there].tolist())):
            errors = _accuracies(actual, forecasts, there & (series == name))
            ours, naive = errors[chosen]["mape"], errors[NAIVE]["mape"]
            passes = ours is not None and naive is not None and ours < gate.mape and ours < naive
            single.append({"series": name, "horizon": one.name, "passes": passes} | errors)
        wins += _wins(one.name, "all series", overall[one.name], chosen)
        wins += [
            line
            for row in single
            if row["horizon"] == one.name
            for line in _wins(one.name, str(row["series"]), row, chosen)
        ]
    gated = found.gated[rows]
    ours, naive = (
        accuracy(actual[gated], forecasts[chosen][gated]),
        accuracy(actual[gated], forecasts[NAIVE][gated]),
    )
    space.measured(
        mape=ours.mape, wape=ours.wape, bias=ours.bias, mape_seasonal_naive=naive.mape,
        series_judged=len(single), series_that_pass=sum(row["passes"] for row in single),
    )  # fmt: skip
    origins = []
    for window in test:
        inside = (found.origins[rows] >= window.until) & (found.known[rows] <= window.end) & gated
        origins.append(
            {"from": _iso(window.until), "until": _iso(window.end)} | _accuracies(actual, forecasts, inside)
        )
    return {
        "chosen": chosen,
        "rows": len(rows),
        "horizons": overall,
        "series": single,
        "origins": origins,
        "better_than_the_model": wins,
    }


def _accuracies(
    actual: Values, forecasts: dict[str, Values], there: npt.NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    return {name: _plain(actual[there], made[there]) for name, made in forecasts.items()}


def _plain(actual: Values, made: Values) -> dict[str, Any]:
    """Ready for JSON: errors rounded, and null where there is none."""
    found = msgspec.to_builtins(accuracy(actual, made))
    return {
        name: value if isinstance(value, int) else (round(value, 6) if np.isfinite(value) else None)
        for name, value in found.items()
    }


def _wins(horizon: str, series: str, errors: dict[str, Any], chosen: str) -> list[str]:
    """Where what cannot become champion had the smaller MAPE."""
    ours = errors[chosen]["mape"]
    found = []
    for name in (PROPHET, NAIVE):
        theirs = errors[name]["mape"] if name in errors else None
        if ours is not None and theirs is not None and theirs < ours:
            found.append(
                f"{name} is better than {chosen} at {horizon} of {series}: "
                f"MAPE {theirs:.1%} against {ours:.1%}"
            )
    return found


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat()
