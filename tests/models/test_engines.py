"""Both engines give the same, each refuses what it cannot run, and a process that scores stays small."""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xgboost

from core.errors import ModelFailed, ModelRefused
from models.encode import Encoder, Matrix
from models.engines import booster as boosters
from models.engines.booster import BoosterFile
from models.engines.chosen import SIZES, ChosenEngine, agree, calibrate
from models.engines.in_place import InPlaceEngine
from models.engines.onnx import OnnxEngine
from models.export import boundaries, to_onnx
from models.load import load
from models.store import BOOSTER, ModelStore
from tests.models import made

ROOT = Path(__file__).resolve().parents[2]
SMALL = made.booster()
INPUTS = len(made.SIGNED.inputs)


def file_of(trained: xgboost.Booster = SMALL, inputs: int = INPUTS) -> BoosterFile:
    return boosters.read(bytes(trained.save_raw("ubj")), inputs=inputs, where="test")


def in_place(trained: xgboost.Booster = SMALL, inputs: int = INPUTS) -> InPlaceEngine:
    return InPlaceEngine(file_of(trained, inputs), where="test")


def onnx(trained: xgboost.Booster = SMALL) -> OnnxEngine:
    return OnnxEngine(to_onnx(trained, name="test"), inputs=INPUTS, where="test")


@pytest.fixture(scope="module")
def judged() -> Matrix:
    """Rows as they come, with gaps; rows on every split and just below it; a row of nothing."""
    rows = Encoder(made.SIGNED).encode(made.rows(3_000, seed=11))
    return np.concatenate([rows, boundaries(SMALL, rows), np.full((1, INPUTS), np.nan, np.float32)])


def test_both_are_xgboost_on_gaps_and_on_split_boundaries(judged: Matrix) -> None:
    expected = SMALL.inplace_predict(judged)
    assert np.isnan(judged).any()
    np.testing.assert_array_equal(in_place().score(judged), expected)
    np.testing.assert_allclose(onnx().score(judged), expected, atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 2, 63, 64, 65, 1_000])
def test_a_score_does_not_depend_on_the_rows_beside_it(judged: Matrix, rows: int) -> None:
    for engine in (onnx(), in_place()):
        whole = engine.score(judged)
        part = engine.score(np.ascontiguousarray(judged[:rows]))
        assert part.dtype == np.float32
        np.testing.assert_allclose(part, whole[:rows], atol=1e-6)


def test_an_answer_is_the_callers_own(judged: Matrix) -> None:
    """The next call must not change what an earlier one gave, also of one row."""
    for engine in (onnx(), in_place()):
        for rows in (1, 100):
            first = engine.score(np.ascontiguousarray(judged[:rows]))
            kept = first.copy()
            engine.score(np.ascontiguousarray(judged[-rows:]))
            np.testing.assert_array_equal(first, kept)


def test_rows_made_of_the_thresholds_find_another_model(judged: Matrix) -> None:
    made_of = file_of().boundaries()
    assert made_of.shape[1] == INPUTS
    assert np.isnan(made_of).any()
    assert agree(onnx(), in_place(), made_of, tolerance=1e-5)
    # the same trees with the missing values on the other side: rows without gaps would not tell
    turned = [
        dict(tree, default_left=[1 - left for left in tree["default_left"]]) for tree in file_of().trees
    ]
    other_side = InPlaceEngine(replace(file_of(), trees=tuple(turned)), where="test")
    assert not agree(onnx(), other_side, made_of, tolerance=1e-5)
    # and with every threshold at the next number: only rows on the thresholds tell
    moved = [
        dict(
            tree,
            split_conditions=[
                _next(v, left)
                for v, left in zip(tree["split_conditions"], tree["left_children"], strict=True)
            ],
        )
        for tree in file_of().trees
    ]
    next_number = InPlaceEngine(replace(file_of(), trees=tuple(moved)), where="test")
    assert agree(onnx(), next_number, _off_thresholds(), tolerance=1e-5)
    assert not agree(onnx(), next_number, made_of, tolerance=1e-5)
    other = InPlaceEngine(file_of(made.booster(seed=3)), where="test")
    assert not agree(onnx(), other, made_of, tolerance=1e-5)


def _off_thresholds() -> Matrix:
    random = np.random.default_rng(2)
    return (random.random((200, INPUTS)) * 9_000 + 0.3).astype(np.float32)


def _next(value: float, left: int) -> float:
    """A threshold moved by the least; a leaf as it is."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf))) if left >= 0 else value


@pytest.mark.parametrize("shape", [(3, INPUTS - 1), (3, INPUTS + 1)])
def test_a_matrix_of_another_width_fails(shape: tuple[int, int]) -> None:
    for engine in (onnx(), in_place()):
        with pytest.raises(ModelFailed):
            engine.score(np.zeros(shape, np.float32))


def test_rows_that_lie_apart_in_memory_are_read_right(judged: Matrix) -> None:
    np.testing.assert_array_equal(in_place().score(judged[::3]), SMALL.inplace_predict(judged)[::3])


def test_other_objectives_are_left_to_onnx() -> None:
    data = xgboost.DMatrix(np.zeros((20, INPUTS), np.float32), np.arange(20))
    other = xgboost.train({"objective": "reg:squarederror"}, data, 2)
    with pytest.raises(ModelRefused, match="squarederror"):
        in_place(other)


def test_a_pruned_booster_is_read() -> None:
    """Nodes that were pruned away stay in the file, apart from their tree."""
    rows = Encoder(made.SIGNED).encode(made.rows(2_000))
    noise = np.random.default_rng(1).random(len(rows)) < 0.1
    data = xgboost.DMatrix(rows, (rows[:, 0] > 5_000) ^ noise)
    pruned = xgboost.train(
        {"objective": "binary:logistic", "gamma": 2.0, "tree_method": "exact", "max_depth": 6}, data, 8
    )
    deleted = [
        int(tree["tree_param"]["num_deleted"])
        for tree in json.loads(pruned.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    ]
    assert any(deleted), "nothing was pruned"
    np.testing.assert_array_equal(in_place(pruned).score(rows), pruned.inplace_predict(rows))


def _mutants(good: bytes, count: int) -> list[bytes]:
    random = np.random.default_rng(8)
    found = []
    for _ in range(count):
        data = bytearray(good)
        at = int(random.integers(len(data)))
        match int(random.integers(3)):
            case 0:
                data[at] ^= 1 << int(random.integers(8))
            case 1:
                del data[at:]
            case _:
                data[at : at + 4] = random.bytes(4)
        found.append(bytes(data))
    return found


def test_a_damaged_booster_is_refused_or_harmless(judged: Matrix) -> None:
    """Each in a child, for XGBoost's own loader would read past its arrays: none may end the process."""
    script = (
        "import sys, numpy as np\n"
        "from core.errors import MillstreamError\n"
        "from models.engines import booster\n"
        "from models.engines.in_place import InPlaceEngine\n"
        "rows, mutants = np.load(sys.argv[1]), np.load(sys.argv[2], allow_pickle=False)\n"
        "refused = 0\n"
        "for padded, length in zip(mutants['data'], mutants['length']):\n"
        "    try:\n"
        f"        read = booster.read(padded[:length].tobytes(), inputs={INPUTS}, where='test')\n"
        "        InPlaceEngine(read, where='test').score(rows)\n"
        "    except MillstreamError:\n"
        "        refused += 1\n"
        "print(refused)\n"
    )
    mutants = _mutants(bytes(SMALL.save_raw("ubj")), 1_000)
    longest = max(map(len, mutants))
    data = np.zeros((len(mutants), longest), np.uint8)
    for row, mutant in zip(data, mutants, strict=True):
        row[: len(mutant)] = np.frombuffer(mutant, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/rows.npy", judged[:500])
        np.savez(f"{folder}/mutants.npz", data=data, length=[len(mutant) for mutant in mutants])
        done = subprocess.run(
            [sys.executable, "-c", script, f"{folder}/rows.npy", f"{folder}/mutants.npz"],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 100


class Timed:
    """An engine that costs `call` and `row` seconds of a clock that only it moves."""

    def __init__(self, name: str, call: float, row: float, watch: list[float]) -> None:
        self.name, self.call, self.row, self.watch = name, call, row, watch
        self.sizes: list[int] = []

    def cost(self, rows: int) -> float:
        return self.call + rows * self.row

    def score(self, matrix: Matrix) -> Matrix:
        self.sizes.append(len(matrix))
        self.watch[0] += self.cost(len(matrix))
        return np.zeros(len(matrix), np.float32)


@pytest.mark.parametrize("seed", range(60))
def test_every_size_gets_the_faster_engine(seed: int) -> None:
    random = np.random.default_rng(seed)
    watch = [0.0]
    calls = sorted(10.0 ** random.uniform(-6, -3, 2))  # ONNX Runtime's call is the cheaper one
    one, other = (
        Timed(name, call, 10.0 ** random.uniform(-7, -5), watch)
        for name, call in zip(("onnx", "xgboost"), calls, strict=True)
    )
    choice = calibrate(one, other, np.zeros((7, 2), np.float32), budget_s=60.0, timer=lambda: watch[0])
    for size in SIZES:
        chosen = choice.of(size)
        assert isinstance(chosen, Timed)
        assert chosen.cost(size) <= min(one.cost(size), other.cost(size)) * (1 + 1e-6), size


@pytest.mark.parametrize("budget", [0.0, 1e-4, 0.01, 0.15])
def test_calibration_keeps_its_time(budget: float) -> None:
    watch = [0.0]
    one, other = Timed("onnx", 1e-5, 5e-6, watch), Timed("xgboost", 1e-4, 4e-6, watch)
    choice = calibrate(one, other, np.zeros((7, 2), np.float32), budget_s=budget, timer=lambda: watch[0])
    assert watch[0] <= budget + max(one.cost(4096), other.cost(4096))
    assert one.sizes + other.sizes or choice.of(1) is one


def test_one_late_measurement_does_not_decide() -> None:
    """The largest size is measured once, and then another process had the processor."""
    watch = [0.0]

    class Held(Timed):
        def cost(self, rows: int) -> float:
            return super().cost(rows) * (3 if rows == 4096 else 1)

    one, other = Timed("onnx", 1e-5, 5e-6, watch), Held("xgboost", 1e-4, 3e-6, watch)
    choice = calibrate(one, other, np.zeros((7, 2), np.float32), budget_s=60.0, timer=lambda: watch[0])
    assert choice.of(1).name == "onnx"
    assert choice.of(4096).name == "xgboost"


def test_a_loaded_model_scores_the_same_with_every_engine(store: ModelStore, judged: Matrix) -> None:
    stored = store.resolve("small")
    expected = SMALL.inplace_predict(judged)
    for pinned in ("auto", "onnx", "xgboost"):
        model = load(stored, engine=pinned)
        for rows in (1, 50, len(judged)):
            np.testing.assert_allclose(
                model.score(np.ascontiguousarray(judged[:rows])), expected[:rows], atol=1e-5
            )
        model.check()
        if pinned != "auto":
            assert model.engine == pinned


def test_a_booster_of_another_model_is_not_used(store: ModelStore, files: dict[str, bytes]) -> None:
    other = {**files, BOOSTER: bytes(made.booster(seed=3).save_raw("ubj"))}
    stored = store.publish("small", other, made.DESCRIPTION)
    assert load(stored).engine == "onnx"
    with pytest.raises(ModelRefused, match="do not agree"):
        load(stored, engine="xgboost")


def test_without_a_booster_onnx_scores(store: ModelStore, files: dict[str, bytes]) -> None:
    stored = store.publish("small", {k: v for k, v in files.items() if k != BOOSTER}, made.DESCRIPTION)
    assert load(stored).engine == "onnx"
    with pytest.raises(ModelRefused, match="no booster"):
        load(stored, engine="xgboost")


def test_a_process_that_scores_imports_no_training_library(store: ModelStore) -> None:
    script = (
        "import sys, json, numpy as np\n"
        "from pathlib import Path\n"
        "from models.load import load\n"
        "from models.store import ModelStore\n"
        "model = load(ModelStore(Path(sys.argv[1])).resolve('small'), engine='xgboost')\n"
        "model.score(np.zeros((300, 4), np.float32))\n"
        "heavy = ('xgboost', 'sklearn', 'scipy', 'lightgbm', 'mlflow', 'joblib')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(store.root)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_chosen_engine_goes_by_rows() -> None:
    watch = [0.0]
    few, many = Timed("onnx", 1e-5, 5e-6, watch), Timed("xgboost", 1e-4, 4e-6, watch)
    chosen = ChosenEngine(
        calibrate(few, many, np.zeros((7, 2), np.float32), budget_s=60.0, timer=lambda: watch[0])
    )
    turn = chosen.choice.from_rows
    few.sizes.clear()
    many.sizes.clear()
    chosen.score(np.zeros((turn - 1, 2), np.float32))
    chosen.score(np.zeros((turn, 2), np.float32))
    assert (few.sizes, many.sizes) == ([turn - 1], [turn])
