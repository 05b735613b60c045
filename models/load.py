"""Loading: nothing is served before its digests, its signature and its golden outputs were right.

A model that is refused leaves the caller with the one it has:

    try:
        model = load(store.resolve("fraud"))
    except ModelRefused as error:
        log.warning("model refused, the previous one stays", reason=str(error))
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from core.errors import MillstreamError, ModelRefused, Unavailable
from core.telemetry.log import logger
from models import golden, signature
from models.encode import Encoder, Matrix
from models.engines import booster as boosters
from models.engines.booster import BoosterFile
from models.engines.chosen import Choice, ChosenEngine, agree, calibrate
from models.engines.contributions import ContributionEngine
from models.engines.in_place import InPlaceEngine
from models.engines.onnx import OnnxEngine
from models.explain import Share, top_shares
from models.manifest import Manifest
from models.store import BOOSTER, CHAMPION, GOLDEN, MODEL, SIGNATURE, Resolver, StoredModel

Pinned = Literal["auto", "onnx", "xgboost"]
_LOG = logger("models.load")


class LoadedModel:
    """A verified model, ready and warm; what `operators.ports.Scorer` asks for. One thread at a time.

    The engine is the faster one for the size of a batch (see `ChosenEngine`), unless one was pinned.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoder: Encoder,
        choice: Choice,
        explainer: ContributionEngine | None,
        golden_rows: tuple[pa.RecordBatch, Matrix],
    ) -> None:
        self.manifest = manifest
        self.signature = encoder.signature
        self._inputs = self.signature.columns
        self._encoder = encoder
        self._engine = ChosenEngine(choice)
        self._explainer = explainer
        self._golden = golden_rows

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def inputs(self) -> Sequence[str]:
        """The columns to be read, in the order of the matrix."""
        return self._inputs

    @property
    def output_range(self) -> tuple[float, float]:
        """The least and the greatest output, both included."""
        return self.signature.output.low, self.signature.output.high

    @property
    def engine(self) -> str:
        """What scores, for logs."""
        return self._engine.name

    def encode(self, batch: pa.RecordBatch) -> Matrix:
        """See `Encoder.encode`."""
        return self._encoder.encode(batch)

    def encode_rows(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Matrix:
        """See `Encoder.encode_rows`."""
        return self._encoder.encode_rows(columns, rows)

    def score(self, matrix: Matrix) -> Matrix:
        """The outputs (rows,), float32. Raises ModelFailed."""
        return self._engine.score(matrix)

    def check(self) -> None:
        """Score the golden rows again; raises ModelError when the outputs are not theirs."""
        rows, expected = self._golden
        matrix, choice = self.encode(rows), self._engine.choice
        for engine in {id(engine): engine for engine in (choice.few, choice.many)}.values():
            where = f"model {self.name} {self.version}, {engine.name}"
            golden.compare(expected, engine.score(matrix), where=where)

    def contributions(self, matrix: Matrix) -> Matrix:
        """Approximate log-odds added by every input, float32 (rows, inputs). Raises ModelRefused without a
        booster beside the model."""
        if self._explainer is None:
            raise ModelRefused(
                "this version has no booster, so there are no reasons",
                where=f"model {self.name} {self.version}",
                mend=f"publish it with {BOOSTER}",
            )
        return self._explainer.contributions(matrix)

    def reasons(self, matrix: Matrix, *, k: int = 5) -> list[list[Share]]:
        """Per row the `k` inputs that raised the score most. Meant for the rows that need it, not for all."""
        return top_shares(self.signature, matrix, self.contributions(matrix), k=k)


def load(stored: StoredModel, *, threads: int = 1, engine: Pinned = "auto") -> LoadedModel:
    """Verify and load. Raises ModelRefused, whatever is wrong with it; `threads` is for one call.

    `engine` pins one. With `auto` both are measured, for 150 ms of processor time; XGBoost takes part where
    the version has a booster, XGBoost's library is installed, and both give the same within the golden
    tolerance on the golden rows and on rows made of the trees' thresholds.
    """
    where = stored.where
    for file in stored.manifest.files:
        if file not in (MODEL, BOOSTER, SIGNATURE, GOLDEN):
            raise ModelRefused(f"unknown file {file!r}", where=where, mend="publish it without")
    declared = signature.parse(stored.read(SIGNATURE), where=where)
    width = len(declared.inputs)
    rows, expected = golden.unpack(stored.read(GOLDEN), where=where)
    encoder = Encoder(declared)
    onnx = OnnxEngine(stored.read(MODEL), inputs=width, where=where, threads=threads)
    booster, explainer = None, None
    if BOOSTER in stored.manifest.files:
        booster = boosters.read(stored.read(BOOSTER), inputs=width, where=where)
        explainer = ContributionEngine(booster, where=where, threads=threads)
    only_onnx = LoadedModel(stored.manifest, encoder, Choice(onnx, onnx, 1), explainer, (rows, expected))
    try:
        only_onnx.check()
        matrix = encoder.encode(rows)
        if explainer is not None:
            explainer.contributions(matrix[:1])  # the first call builds its tables
        choice = _choice(onnx, booster, matrix, threads=threads, engine=engine, where=where)
    except ModelRefused:
        raise
    except MillstreamError as error:
        raise ModelRefused(
            f"the golden rows do not go through: {error.what}", where=where, mend="train and publish again"
        ) from error
    if choice.many is onnx and choice.few is onnx:
        return only_onnx
    return LoadedModel(stored.manifest, encoder, choice, explainer, (rows, expected))


def _choice(
    onnx: OnnxEngine,
    booster: BoosterFile | None,
    matrix: Matrix,
    *,
    threads: int,
    engine: Pinned,
    where: str,
) -> Choice:
    if engine == "onnx":
        return Choice(onnx, onnx, 1)
    try:
        if booster is None:
            raise ModelRefused("this version has no booster", where=where, mend=f"publish it with {BOOSTER}")
        in_place = InPlaceEngine(booster, where=where, threads=threads)
        judged = np.concatenate([matrix, booster.boundaries()])
        if not agree(onnx, in_place, judged, tolerance=golden.TOLERANCE):
            raise ModelRefused(
                "ONNX Runtime and XGBoost do not agree", where=where, mend="export the model again"
            )
    except (ModelRefused, Unavailable) as error:
        if engine == "xgboost":
            raise
        if booster is not None:
            _LOG.warning("scored by ONNX Runtime alone", where=where, reason=error.what)
        return Choice(onnx, onnx, 1)
    if engine == "xgboost":
        return Choice(in_place, in_place, 1)
    alone = threads == 1 and not onnx.on_gpu
    choice = calibrate(onnx, in_place, matrix, timer=time.thread_time if alone else time.perf_counter)
    _LOG.info("engine chosen", where=where, engine=choice.text)
    return choice


class StoredModels:
    """The versions of one model in a store, as a worker follows them."""

    def __init__(
        self,
        store: Resolver,
        name: str,
        *,
        check: Callable[[StoredModel], None] = lambda stored: None,
        threads: int = 1,
        engine: Pinned = "auto",
    ) -> None:
        self._store, self._name, self._check = store, name, check
        self._threads, self._engine = threads, engine

    def champion(self) -> str:
        """The version in the champion's place. Raises MillstreamError when there is none."""
        return self._store.resolve(self._name, CHAMPION).version

    def load(self, version: str) -> LoadedModel:
        """That version, verified, accepted by `check`, and warm. Raises ModelRefused."""
        stored = self._store.resolve(self._name, version)
        self._check(stored)
        return load(stored, threads=self._threads, engine=self._engine)
