"""The stage that says whether the model goes on: MAPE small enough, and below that of seasonal naive."""

from typing import Any

import numpy as np

from core.errors import MillstreamError
from jobs.training.forecasting.backtest import FORECASTS, NAIVE
from jobs.training.forecasting.examples import AT
from jobs.training.forecasting.prepare import Prepared, prepared_of
from jobs.training.workspace import Workspace
from models.forecasts import accuracy
from models.load import load
from models.store import CHAMPION, StoredModel


def gate(space: Workspace) -> dict[str, Any]:
    """Says why the model does not go on under `below`: of every horizon that the gate is about, MAPE over all
    series. And what the champion reached on those rows of the test that it has not learned from."""
    report = space.state.details("evaluate")
    reasons = below(report["horizons"], report["chosen"], space.configuration.gate.mape)
    found: dict[str, Any] = {"champion": None}
    if reasons:
        found["below"] = "; ".join(reasons)
    store, name = space.around.store, space.configuration.name
    if CHAMPION in store.aliases(name):
        champion = store.resolve(name, CHAMPION)
        found["champion"] = champion.version
        found |= _compared(champion, space)
    return found


def below(horizons: dict[str, dict[str, Any]], chosen: str, most: float) -> list[str]:
    """Why not, a reason per horizon and rule."""
    reasons = []
    for name, one in horizons.items():
        if not one["gate"]:
            continue
        ours, naive = one[chosen]["mape"], one[NAIVE]["mape"]
        if ours is None:
            reasons.append(f"{name}: there is no MAPE, every actual value is 0")
            continue
        if not ours < most:
            reasons.append(f"{name}: MAPE {ours:.1%} is not below {most:.1%}")
        if not ours < naive:
            reasons.append(f"{name}: MAPE {ours:.1%} is not better than the seasonal naive one, {naive:.1%}")
    return reasons


def _compared(champion: StoredModel, space: Workspace) -> dict[str, Any]:
    prepared = prepared_of(space)
    with np.load(space.data / FORECASTS) as kept:
        rows, ours = kept["rows"], kept[space.state.details("evaluate")["chosen"]]
    later = _unseen(champion, prepared, rows, space)
    if not later.any():
        return {"not_compared": "no row of the test is known to be new to the champion"}
    try:
        model = load(champion, threads=space.around.processes)
        batch = space.rows.take(rows[later]).combine_chunks().to_batches()[0]
        theirs = model.score(model.encode(batch)).astype(np.float64)
        before = accuracy(prepared.targets[rows[later]], theirs)
    except MillstreamError as error:
        return {"not_compared": f"the champion cannot forecast these rows: {error.what}"}
    after = accuracy(prepared.targets[rows[later]], ours[later])
    values = {"champion": before.mape, "candidate": after.mape, "difference": after.mape - before.mape}
    return {"compared": {"mape": values}, "compared_rows": int(later.sum())}


def _unseen(champion: StoredModel, prepared: Prepared, rows: Any, space: Workspace) -> Any:
    """Of the rows of the test those of the gate whose origin is after all that the champion learned from;
    none where it does not say what that was."""
    learned = champion.manifest.description.trained_on
    if learned is None:
        return np.zeros(len(rows), bool)
    at = space.rows[AT].to_pylist()
    return np.array([at[row] > learned.last_at for row in rows.tolist()], bool) & prepared.gated[rows]
