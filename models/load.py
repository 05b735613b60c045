"""Loading: nothing is served before its digests, its signature and its golden outputs were right.

A model that is refused leaves the caller with the one it has:

    try:
        model = load(store.resolve("fraud"))
    except ModelRefused as error:
        log.warning("model refused, the previous one stays", reason=str(error))
"""

from collections.abc import Sequence

import pyarrow as pa

from core.errors import MillstreamError, ModelRefused
from models import golden, signature
from models.encode import Encoder, Matrix
from models.engines.contributions import ContributionEngine
from models.engines.onnx import OnnxEngine
from models.explain import Share, top_shares
from models.manifest import Manifest
from models.store import BOOSTER, CHAMPION, GOLDEN, MODEL, SIGNATURE, ModelStore, StoredModel


class LoadedModel:
    """A verified model, ready and warm; what `operators.ports.Scorer` asks for. One thread at a time."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: Encoder,
        engine: OnnxEngine,
        explainer: ContributionEngine | None,
        golden_rows: tuple[pa.RecordBatch, Matrix],
    ) -> None:
        self.manifest = manifest
        self.signature = encoder.signature
        self._encoder = encoder
        self._engine = engine
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
        return self.signature.columns

    def encode(self, batch: pa.RecordBatch) -> Matrix:
        """See `Encoder.encode`."""
        return self._encoder.encode(batch)

    def score(self, matrix: Matrix) -> Matrix:
        """Probabilities (rows,), float32. Raises ModelFailed."""
        return self._engine.score(matrix)

    def check(self) -> None:
        """Score the golden rows again; raises ModelError when the outputs are not theirs."""
        rows, expected = self._golden
        golden.compare(expected, self.score(self.encode(rows)), where=f"model {self.name} {self.version}")

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


def load(stored: StoredModel, *, threads: int = 1) -> LoadedModel:
    """Verify and load. Raises ModelRefused, whatever is wrong with it; `threads` is for one call."""
    where = stored.where
    for file in stored.manifest.files:
        if file not in (MODEL, BOOSTER, SIGNATURE, GOLDEN):
            raise ModelRefused(f"unknown file {file!r}", where=where, mend="publish it without")
    declared = signature.parse(stored.read(SIGNATURE), where=where)
    width = len(declared.inputs)
    rows, expected = golden.unpack(stored.read(GOLDEN), where=where)
    encoder = Encoder(declared)
    engine = OnnxEngine(stored.read(MODEL), inputs=width, where=where, threads=threads)
    explainer = None
    if BOOSTER in stored.manifest.files:
        explainer = ContributionEngine(stored.read(BOOSTER), inputs=width, where=where, threads=threads)
    model = LoadedModel(stored.manifest, encoder, engine, explainer, (rows, expected))
    try:
        model.check()
        if explainer is not None:
            explainer.contributions(encoder.encode(rows.slice(0, 1)))  # the first call builds its tables
    except ModelRefused:
        raise
    except MillstreamError as error:
        raise ModelRefused(
            f"the golden rows do not go through: {error.what}", where=where, mend="train and publish again"
        ) from error
    return model


class StoredModels:
    """The versions of one model in a store, as a worker follows them."""

    def __init__(self, store: ModelStore, name: str, *, threads: int = 1) -> None:
        self._store, self._name, self._threads = store, name, threads

    def champion(self) -> str:
        """The version in the champion's place. Raises MillstreamError when there is none."""
        return self._store.resolve(self._name, CHAMPION).version

    def load(self, version: str) -> LoadedModel:
        """That version, verified and warm. Raises ModelRefused."""
        return load(self._store.resolve(self._name, version), threads=self._threads)
