"""Tree scoring: the engine port of a loaded model against ONNX Runtime and XGBoost, at every batch size.

Both peers are called as their packages are meant to be (`InferenceSession.run`, `Booster.inplace_predict`),
with one thread, as ours; time is that thread's processor time. Every call scores other rows than the one
before: on the same rows again and again a processor learns the way through the trees by heart, and 32 rows
take half the time. `best_at_N` is our time over that of the faster peer at that size.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime
import xgboost

from bench.harness import ROUNDS, BenchResult, Ratio, control, require_equal, versions
from bench.models_material import Material, material
from bench.registry import text
from models.encode import Matrix
from models.store import BOOSTER, MODEL

SIZES = tuple(2**power for power in range(13))
BEST, ROW = 1.15, 8.0
TOLERANCE = 1e-5
_LEAST_ROWS = 4_096
Score = Callable[[Matrix], object]


def bench() -> BenchResult:
    """Ratios `row_1` and `best_at_1` to `best_at_4096`."""
    given = material()
    ours: Score = given.model.score
    peers: dict[str, Score] = {"ONNX Runtime": _onnx(given), "XGBoost": _xgboost(given)}
    for name, peer in peers.items():
        close = np.abs(np.asarray(peer(given.matrix)) - np.asarray(ours(given.matrix))).max() <= TOLERANCE
        require_equal(f"scores of {name}", bool(close), True)
    ratios: list[Ratio] = []
    figures: dict[str, float] = {}
    for size in SIZES:
        found = _measured(given.matrix, size, {"ours": ours, **peers})
        best = [min(pair) for pair in zip(*(found[name] for name in peers), strict=True)]
        if size == 1:
            faster = tuple(p / o for p, o in zip(found["XGBoost"], found["ours"], strict=True))
            ratios.append(
                Ratio("row_1", faster, ROW, False, "one row: xgboost.inplace_predict's time over ours")
            )
        shares = tuple(o / b for o, b in zip(found["ours"], best, strict=True))
        ratios.append(
            Ratio(f"best_at_{size}", shares, BEST, True, f"{size} rows: our time over the faster peer's")
        )
        for name, seconds in found.items():
            figures[f"{size} rows, {name}: us"] = statistics.median(seconds) * 1e6
    return BenchResult(
        bench="models-trees",
        ratios=ratios,
        versions=versions(("onnxruntime", "xgboost-cpu", "numpy")),
        sizes={
            "trees": xgboost_rounds(given),
            "inputs": given.matrix.shape[1],
            "rows": len(given.matrix),
            "engine": given.model.engine,
            "payments": given.origin,
        },
        figures=figures,
        control=control(lambda: _median(ours, _parts(given.matrix, 64, 0))),
    )


def xgboost_rounds(given: Material) -> int:
    """The number of trees."""
    return int(xgboost.Booster(model_file=bytearray(given.stored.read(BOOSTER))).num_boosted_rounds())


def _onnx(given: Material) -> Score:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        given.stored.read(MODEL), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def score(matrix: Matrix) -> object:
        return session.run(None, {name: matrix})[0]

    return score


def _xgboost(given: Material) -> Score:
    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(given.stored.read(BOOSTER)))
    score: Score = booster.inplace_predict
    return score


def _measured(matrix: Matrix, size: int, arms: dict[str, Score]) -> dict[str, list[float]]:
    """Per round the median seconds of a call, for every arm; forth and back again, the mean of both."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        _median(arm, _parts(matrix, size, 0)[:3])
    for turn in range(ROUNDS):
        parts = _parts(matrix, size, turn)
        forth = {name: _median(arm, parts) for name, arm in arms.items()}
        back = {name: _median(arm, parts) for name, arm in reversed(arms.items())}
        for name in arms:
            found[name].append((forth[name] + back[name]) / 2)
    return found


def _parts(matrix: Matrix, size: int, turn: int) -> list[Matrix]:
    """Other rows every turn; at least five calls, at most 400."""
    calls = min(max(_LEAST_ROWS // size, 5), 400)
    order = np.random.default_rng([size, turn]).permutation(len(matrix))
    return [
        np.ascontiguousarray(matrix[np.resize(order, (at + 1) * size)[at * size :]]) for at in range(calls)
    ]


def _median(score: Score, parts: Sequence[Matrix]) -> float:
    took = []
    for part in parts:
        begun = time.thread_time()
        score(part)
        took.append(time.thread_time() - begun)
    return statistics.median(took)


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
