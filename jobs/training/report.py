"""What came out of a run, for people and programs."""

from typing import Any

from jobs.training.forecasting.report import forecast_lines, forecast_report
from jobs.training.run_folder import RunState


def report_of(state: RunState) -> dict[str, Any]:
    """Ready for JSON. Qualities are of the test rows, seconds per stage; what did not happen is not there."""
    stages = {stage.name: stage.details for stage in state.done}
    found: dict[str, Any] = {
        "run": state.id,
        "model": state.configuration.name,
        "state": state.state,
        "problem": state.problem,
        "version": state.version,
        "alias": stages.get("deploy", {}).get("alias"),
        **state.metrics,
        "trials": state.trials_done,
        "seconds": {stage.name: stage.seconds for stage in state.done},
        "attempts": state.attempts,
        "told": state.told,
    }
    if "extract" in stages:
        found |= {"data": stages["extract"]["source"], "licence": stages["extract"]["licence"]}
    if state.configuration.task == "forecasting":
        found |= forecast_report(state)
    elif "prepare" in stages:
        parts = stages["prepare"]
        found |= {
            "inputs": parts["inputs"],
            "trained_rows": parts["learned_end"],
            "tested_rows": parts["rows"] - parts["test_start"],
        }
    for stage, name in (("fit", "settings"), ("evaluate", "average_precision"), ("evaluate", "auc")):
        if stages.get(stage, {}).get("settings" if stage == "fit" else name):
            found[name if stage == "fit" else f"{name}_interval"] = stages[stage][name]
    for stage, name in (("evaluate", "backtest"), ("gate", "compared"), ("gate", "not_compared")):
        if stages.get(stage, {}).get(name):
            found[name] = stages[stage][name]
    if state.acknowledged is not None:
        found["acknowledged"] = {
            "by": state.acknowledged.by,
            "at": state.acknowledged.at.isoformat(),
        }
    return found


def lines_of(state: RunState) -> list[str]:
    """A few lines that say the same."""
    found = report_of(state)
    lines = [f"run {state.id}: {state.state}" + (f": {state.problem}" if state.problem else "")]
    if "data" in found:
        lines.append(f"data: {found['data']} (licence: {found['licence']})")
    lines += forecast_lines(found)
    if "auc" in found:
        precision = found.get("average_precision_interval", {})
        interval = f" ({precision['low']:.4f} to {precision['high']:.4f})" if precision else ""
        lines.append(
            f"AUC {found['auc']:.4f}, average precision {found['average_precision']:.4f}{interval} on "
            f"{found['tested_rows']:,} later rows, learned from {found['trained_rows']:,}"
        )
    if "auc_without_view" in found:
        lines.append(
            f"without the view {found['auc_without_view']:.4f} and "
            f"{found['average_precision_without_view']:.4f}"
        )
    for name, one in found.get("compared", {}).items():
        lines.append(
            f"{name}: champion {one['champion']:.4f}, candidate {one['candidate']:.4f}, difference "
            f"{one['low']:+.4f} to {one['high']:+.4f}"
        )
    if "not_compared" in found:
        lines.append(f"not compared: {found['not_compared']}")
    if state.version is not None:
        lines.append(f"{found['model']} {state.version}: {found['alias'] or 'registered'}")
    return lines
