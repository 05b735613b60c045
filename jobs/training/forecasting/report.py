"""What came out of a forecasting, series by series, for people and programs."""

from typing import Any

from jobs.training.forecasting.backtest import NAIVE, PROPHET
from jobs.training.run_folder import RunState


def forecast_report(state: RunState) -> dict[str, Any]:
    """The part of a run's report that is about forecasts, as far as the run came; ready for JSON."""
    stages = {stage.name: stage.details for stage in state.done}
    found: dict[str, Any] = {}
    if "extract" in stages:
        found |= {name: stages["extract"][name] for name in ("events", "first_at", "last_at", "every_hours")}
    if "prepare" in stages:
        found["inputs"] = stages["prepare"]["inputs"]
    if "evaluate" in stages:
        names = ("chosen", "horizons", "series", "origins", "better_than_the_model")
        found |= {name: stages["evaluate"][name] for name in names}
        passing = [row for row in found["series"] if row["passes"]]
        found["pass"] = [f"{row['series']}: {row['horizon']}" for row in passing]
        found["do_not_pass"] = [
            f"{row['series']}: {row['horizon']}" for row in found["series"] if not row["passes"]
        ]
    if stages.get("fit"):
        found |= {"settings": stages["fit"]["settings"], "trained_rows": stages["fit"]["trained_rows"]}
    return found


def forecast_lines(found: dict[str, Any]) -> list[str]:
    """A table: a line per horizon and series, MAPE of every model; then where another one was better."""
    if "horizons" not in found:
        return []
    models = [name for name, one in next(iter(found["horizons"].values())).items() if name != "gate"]
    heads = "".join(f"{'naive' if name == NAIVE else name:>10}" for name in models)
    lines = [
        f"chosen: {found['chosen']}; {len(found['origins'])} origins from {found['origins'][0]['from']} to "
        f"{found['origins'][-1]['until']}",
        f"{'MAPE':<18}{'series':<14}{heads}{'WAPE':>10}{'bias':>8}  gate",
    ]
    for horizon, one in found["horizons"].items():
        told = "" if one["gate"] else " (told only)"
        lines.append(_line(horizon, "all series", one, models, found["chosen"], "judged" + told))
        for row in found["series"]:
            if row["horizon"] == horizon:
                verdict = "passes" if row["passes"] else "DOES NOT PASS"
                lines.append(_line(horizon, row["series"], row, models, found["chosen"], verdict))
    zeros = sum(one[found["chosen"]]["zeros"] for one in found["horizons"].values())
    if zeros:
        lines.append(f"{zeros} actual values were 0: they are in WAPE, not in MAPE")
    lines += found["better_than_the_model"]
    if PROPHET in models:
        lines.append("Prophet is fitted anew every few days; the trees look at the newest values each time")
    return lines


def _line(horizon: str, series: str, errors: dict[str, Any], models: list[str], chosen: str, end: str) -> str:
    mapes = "".join(f"{_percent(errors[name]['mape']):>10}" for name in models)
    ours = errors[chosen]
    return f"{horizon:<18}{series:<14}{mapes}{_percent(ours['wape']):>10}{_percent(ours['bias']):>8}  {end}"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"
